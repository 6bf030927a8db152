"""A tracked connection, as a value: where its client sent packets, and who answers."""

from kubeproxy.model.addresses import host_port
from kubeproxy.model.objects import Protocol, Record


class Flow(Record, frozen=True, kw_only=True):
    """One entry of the kernel's connection tracking. Addresses are canonical text."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    """Where the client sent its first packet, before any translation."""
    port: int
    answerer: str
    """Where answers come from: the endpoint of a flow that was translated, else the destination."""
    answerer_port: int
    zone: int = 0
    """The tracking zone; 0 unless somebody keeps connections apart (OVS, raw rules with `CT --zone`)."""
    handle: bytes = b""
    """By what the kernel knows the entry: opaque, for deleting it."""

    @property
    def translated(self) -> bool:
        """Whether somebody sends its packets elsewhere than where the client addressed them."""
        return (self.answerer, self.answerer_port) != (self.destination, self.port)

    def __str__(self) -> str:
        """Print as one line of a report."""
        client = host_port(self.source, self.source_port)
        there = host_port(self.destination, self.port)
        by = "not translated"
        if self.translated:
            by = f"answered by {host_port(self.answerer, self.answerer_port)}"
        return f"{self.protocol} {client} → {there}, {by}"


class FlowMatch(Record, frozen=True, kw_only=True):
    """Which flows somebody wants to see."""

    protocol: Protocol
    ports: frozenset[int] = frozenset()
    """Destination ports; empty means any."""
    source: str = ""
    destination: str = ""

    def admits(self, flow: Flow) -> bool:
        """Return whether a flow is one of them."""
        return (
            flow.protocol is self.protocol
            and (not self.ports or flow.port in self.ports)
            and self.source in ("", flow.source)
            and self.destination in ("", flow.destination)
        )
