"""--listen-client-urls: where etcd's gateway answers, and who may use it.

The gateway is the whole store. Beyond loopback it takes users (--client-users-file) and TLS, with the API server's
certificate, unless something in front of it ends TLS (--insecure-plain-http).
"""

import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from kubeproxy.apiserver.listening import is_loopback
from kubeproxy.clock import Clock
from kubeproxy.kernel.sockets import listen
from kubeproxy.store.gateway_users import GatewayUsers, parse_users

DEFAULT_PORT = 2379


class ClientSocket(msgspec.Struct, frozen=True):
    """A socket that listens for clients of the store."""

    bound: socket.socket
    tls: bool


def bind(urls: Sequence[str]) -> list[ClientSocket]:
    """Take the addresses of the URLs. Raises ValueError, OSError."""
    found = []
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"listen-client-urls {url!r}: must be http://ADDRESS:PORT or https://ADDRESS:PORT")
        found.append(ClientSocket(listen(parts.hostname, parts.port or DEFAULT_PORT), parts.scheme == "https"))
    return found


def users_for(sockets: Sequence[ClientSocket], path: str, clock: Clock, *, plain: bool) -> GatewayUsers | None:
    """Return who may use the gateway; None lets everybody. Raises ValueError."""
    for each in sockets:
        if is_loopback(each.bound):
            continue
        address = each.bound.getsockname()[0]
        if not each.tls and not plain:
            raise ValueError(f"listen-client-urls: {address} is not of loopback, so the URL must be https://")
        if not path:
            raise ValueError(f"listen-client-urls: {address} is not of loopback, and needs --client-users-file")
    if not path:
        return None
    try:
        return GatewayUsers(parse_users(Path(path).read_text("utf-8")), clock.now)
    except OSError as error:
        raise ValueError(f"client-users-file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"client-users-file {path}: {error}") from None
