"""The first packet of a connection, as far as the dataplane looks at it. Pure."""

from enum import StrEnum

from kubeproxy.model.addresses import host_port
from kubeproxy.model.objects import Protocol, Record


class Origin(StrEnum):
    """Where a packet comes from."""

    POD = "pod"
    """By an interface of the node, from a pod of this cluster, wherever it runs."""
    NODE = "node"
    """From a process of the node itself (or of a pod on its network)."""
    OUTSIDE = "outside"
    """By an interface of the node, from anybody else."""


class Packet(Record, frozen=True, kw_only=True):
    """Addresses are canonical text, both of one family."""

    origin: Origin
    source: str
    destination: str
    port: int
    protocol: Protocol = Protocol.TCP
    interface: str = ""
    """By which interface it reaches the node; "" when it is not known, or when the node itself sends."""

    @property
    def where_to(self) -> str:
        """`address:port/protocol`, an IPv6 address in brackets."""
        return f"{host_port(self.destination, self.port)}/{self.protocol}"
