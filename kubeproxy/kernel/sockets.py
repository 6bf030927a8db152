"""Listening sockets, and how many files a process may have."""

import resource
import socket

from kubeproxy.model.addresses import host_port


def listen(address: str, port: int, *, only_v6: bool = False) -> socket.socket:
    """Return a socket that listens; one on :: answers IPv4 too unless ``only_v6``.

    Raises OSError, in words that name the address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        bound.bind((address, port))
        bound.listen(1024)
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {host_port(address, port)}: {error.strerror}") from None
    return bound


def most_files() -> int:
    """Raise this process' limit of open files to what it may have, and return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
