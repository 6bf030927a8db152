"""Ports of loopback for servers that a test starts by number.

The kernel gives no port below its ephemeral range to an outgoing connection. One of that range may be a client's
by the time that the server binds it, even of whoever asks whether the server is up yet: that one can meet itself.
"""

import itertools
import random
import socket
from contextlib import ExitStack

_RANGE = range(20_000, 32_000)
"""Below net.ipv4.ip_local_port_range, and above what is well known."""
_START = random.SystemRandom().randrange(len(_RANGE))
_ports = itertools.cycle((*_RANGE[_START:], *_RANGE[:_START]))
"""No two calls get the same one; two runs at the same time begin elsewhere."""


def free_port() -> int:
    """Return a port that nobody has on any address, for TCP and UDP, IPv4 and IPv6."""
    return next(port for port in itertools.islice(_ports, len(_RANGE)) if _is_free(port))


def _is_free(port: int) -> bool:
    with ExitStack() as held:
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                held.enter_context(socket.socket(socket.AF_INET6, kind)).bind(("::", port))
        except OSError:
            return False
    return True
