"""Which kernel object does a step of a packet's way: what a backend can tell of itself to `trace`. Pure."""

from enum import StrEnum
from typing import Protocol

from kubeproxy.model.desired import ServiceState
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Record


class Subject(StrEnum):
    """What a step of a packet's way is about."""

    ADDRESS = "address"
    """Whose it is."""
    LEFT_OUT = "left out"
    """Who claims it in vain."""
    RANGES = "source ranges"
    POLICY = "policy"
    SHORT_CIRCUIT = "short circuit"
    """Pods and the node are not bound by externalTrafficPolicy Local."""
    ENDPOINTS = "endpoints"
    AFFINITY = "affinity"
    MASQUERADE = "masquerade"
    NO_MASQUERADE = "no masquerade"
    HAIRPIN = "hairpin"
    """An endpoint that is its own client is masqueraded."""
    REFUSAL = "refusal"
    """Nobody is there."""
    UNDEFINED_PORT = "undefined port"
    UNALLOCATED = "unallocated"
    MARTIAN = "martian"
    KERNEL = "kernel"
    """No Service is concerned."""


class Spot(Record, frozen=True, kw_only=True):
    """A step, as far as it decides which object it is."""

    subject: Subject
    address: str = ""
    """The destination; "" for a node port of whatever address."""
    inside: bool = True
    """Whether the destination is the Service's cluster IP."""
    local: bool = False
    """Whether policy Local chooses the endpoints."""


class Locator(Protocol):
    """One mode's own objects."""

    def locate(self, node: NodeState, state: ServiceState | None, spot: Spot) -> str:
        """Return what does a step, as the mode's tools would show it; "" when nothing in the kernel does."""
        ...

    def objects(self, node: NodeState, state: ServiceState) -> list[str]:
        """Return everything that is programmed for one Service port, endpoints' own parts left out."""
        ...
