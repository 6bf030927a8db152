"""What both kinds of tables tell of a traced packet, and how it is waited for. Blocking."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from kubeproxy.kernel.netlink import NetlinkSocket

QUIET_SECONDS = 0.15
"""When nothing more has come for so long, the packet is through."""


class Event(NamedTuple):
    """The packet met a rule, or came to the end of a chain."""

    table: str
    chain: str
    kind: str
    """rule, return or policy."""
    number: int = 0
    """Of the rule in its chain, from 1; 0 when it is gone, and at a chain's end."""
    verdict: str = ""
    text: str = ""
    """The rule, where nf_tables can be asked for it."""


class Tracing(Protocol):
    """One kind of tables: asks for the packets while its `with` block lasts."""

    def __enter__(self) -> object:
        """Raises KernelError, OSError."""
        ...

    def __exit__(self, *_: object) -> None: ...

    def events(self, seconds: float) -> Iterator[Event]:
        """Yield what is told until nothing comes any more; wait at most so long for the first."""
        ...


def datagrams(source: NetlinkSocket, seconds: float) -> Iterator[bytes]:
    """Yield what comes to a socket until it is quiet; wait at most so long for the first."""
    data = source.listen(seconds)
    while data:
        yield data
        data = source.listen(QUIET_SECONDS)
