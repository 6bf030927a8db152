"""A packet's way through the tables, as values. Pure."""

import msgspec

from kubeproxy.model.objects import Protocol


class TracedFlow(msgspec.Struct, frozen=True, kw_only=True):
    """The connection that is traced, as its first packet is addressed."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    port: int


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that the packet met, or the end of a built-in chain."""

    table: str
    chain: str
    rule: str
    """As iptables-save has it, without `-A CHAIN`; "policy ACCEPT" and so on at the end of a chain."""
    stopped: bool = False
    """Whether the packet went no further."""


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """The packet's way, as far as the kernel told of it."""

    hops: tuple[Hop, ...]
    chains: tuple[tuple[str, str], ...]
    """Every table and chain that it came through."""
