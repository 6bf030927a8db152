"""How the server is protected, from its settings: TLS or not, whose credentials count, what changes on disk."""

import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kubeproxy.apiserver.authentication import Authenticator, TokenFile
from kubeproxy.apiserver.listening import is_loopback
from kubeproxy.apiserver.pki import Pki
from kubeproxy.apiserver.tls import ServingTls
from kubeproxy.clock import Clock

RELOAD_SECONDS = 5.0
"""How often the files are looked at."""
DEFAULT_CERT_DIR = "/var/lib/kubeproxy/pki"
_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    "::1",
)


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """What kube-apiserver's flags of the same names say; "" is not given."""

    tls: bool = False
    """Asked for by a flag; beyond loopback there is TLS without being asked."""
    plain: bool = False
    """No TLS beyond loopback either: something in front of this server ends it."""
    cert_file: str = ""
    key_file: str = ""
    cert_dir: str = ""
    client_ca_file: str = ""
    token_file: str = ""
    anonymous: bool = True

    @property
    def pki(self) -> Pki:
        """Where the certificates are that this server makes itself."""
        return Pki(Path(self.cert_dir or DEFAULT_CERT_DIR))


class Protected(msgspec.Struct, frozen=True, kw_only=True):
    """Protection in force."""

    tls: ServingTls | None
    """Of the API, when ``secure``, and of the gateway's https URLs."""
    secure: bool
    authenticator: Authenticator

    async def keep_fresh(self, clock: Clock) -> None:
        """Take up certificates and tokens that change on disk, until cancelled."""
        while True:
            await clock.sleep(RELOAD_SECONDS)
            if self.tls is not None:
                self.tls.reload()
            self.authenticator.reload()


def protect(
    wanted: Protection, sockets: Iterable[socket.socket], names: Iterable[str], clock: Clock, *, gateway_tls: bool
) -> Protected:
    """Read or make what protects the API's sockets, which answer to ``names``. Raises OSError, ValueError."""
    local = all(map(is_loopback, sockets))
    secure = wanted.tls or not (local or wanted.plain)
    tls = _tls(wanted, names, clock) if secure or gateway_tls else None
    tokens = TokenFile(Path(wanted.token_file)) if wanted.token_file else None
    if not secure and tokens is None and not local:
        raise ValueError("--insecure-plain-http beyond loopback needs --token-auth-file: nobody else would get in")
    is_open = not secure and tokens is None and wanted.anonymous
    authenticator = Authenticator(tokens=tokens, anonymous=wanted.anonymous, open_to_all=is_open, wall=clock.wall)
    return Protected(tls=tls, secure=secure, authenticator=authenticator)


def _tls(wanted: Protection, names: Iterable[str], clock: Clock) -> ServingTls:
    given_ca = [Path(wanted.client_ca_file)] if wanted.client_ca_file else []
    if wanted.cert_file:
        return ServingTls(Path(wanted.cert_file), Path(wanted.key_file), given_ca)
    pki = wanted.pki
    every = (*_NAMES, socket.gethostname().lower(), *names)

    def renew() -> None:
        pki.ensure_serving(every, clock.wall())

    renew()
    return ServingTls(*pki.serving_files, [pki.ca_file, *given_ca], renew=renew)
