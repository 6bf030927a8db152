"""What `GET /services` says: Service ports, virtual servers, destinations, and what the kernel counts. Pure.

A number that the kernel does not count in the mode at hand is None, never 0.
"""

from kubeproxy.model.objects import Record


class Counts(Record, frozen=True, kw_only=True):
    """Of a virtual server or of one of its destinations."""

    active: int | None = None
    """Connections that are established. UDP knows no such thing."""
    inactive: int | None = None
    """Those that are not, or no longer, and are still remembered."""
    connections: int | None = None
    """All since the virtual server or destination was made."""
    connections_rate: float | None = None
    """A second; so are the others."""
    bytes_in_rate: float | None = None
    bytes_out_rate: float | None = None


class Destination(Record, frozen=True, kw_only=True):
    """Where a virtual server sends connections."""

    endpoint: str
    """`ip:port`."""
    weight: int | None
    draining: bool = False
    """It gets no new connections, and keeps those it has until they end."""
    counts: Counts


class Server(Record, frozen=True, kw_only=True):
    """A virtual server: an address and port that leads to destinations."""

    way: str
    """As what it belongs to a Service: cluster IP, node port, ..."""
    address: str
    """`ip:port`, `*:port` for a node port at every address, or a packet mark."""
    protocol: str
    scheduler: str
    affinity_seconds: int = 0
    counts: Counts
    destinations: tuple[Destination, ...] = ()
    left_off: int = 0
    """Destinations beside these."""


class Port(Record, frozen=True, kw_only=True):
    """One Service port in one IP family."""

    service: str
    """`namespace/name` or `namespace/name:port`; "" when the Service is gone."""
    protocol: str
    family: str
    servers: tuple[Server, ...] = ()
    note: str = ""
    """What is to be known of it."""


class Look(Record, frozen=True, kw_only=True):
    """One look at one family."""

    ports: tuple[Port, ...] = ()
    """The busiest first."""
    left_off: int = 0
    """Ports beside these."""
    foreign: tuple[Server, ...] = ()
    """Virtual servers that are not kubeproxy's."""
    foreign_left_off: int = 0


class Answer(Record, frozen=True, kw_only=True):
    """One look at all families."""

    node: str
    mode: str
    counted_by: str
    """Which part of the kernel counts."""
    ports: tuple[Port, ...] = ()
    left_off: int = 0
    foreign: tuple[Server, ...] = ()
    foreign_left_off: int = 0
    unread: tuple[str, ...] = ()
    """What could not be read, and why."""


def busyness(port: Port) -> tuple[float, int, int]:
    """Return what ports are ranked by: new connections a second, remembered connections, and those of all time."""
    counts = [server.counts for server in port.servers]
    remembered = [each for one in counts for each in (one.active, one.inactive)]
    return (
        sum(each.connections_rate or 0 for each in counts),
        sum(each or 0 for each in remembered),
        sum(each.connections or 0 for each in counts),
    )


def in_order(port: Port) -> tuple[float, int, int, str, str, str]:
    """Return a sorting key: the busiest first, then by name."""
    rate, remembered, total = busyness(port)
    return -rate, -remembered, -total, port.service or "~", port.protocol, port.family


def added(counts: list[Counts]) -> Counts:
    """Return the sums; None where nothing was counted."""

    def total(values: list[int | None]) -> int | None:
        known = [each for each in values if each is not None]
        return sum(known) if known else None

    return Counts(
        active=total([each.active for each in counts]),
        inactive=total([each.inactive for each in counts]),
        connections=total([each.connections for each in counts]),
    )
