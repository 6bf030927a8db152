"""What an agent answers to `GET /trace` and `kubeproxy trace` shows: one shape for both. Pure.

Texts in it may come from the cluster: whoever prints them takes the sting out (`logs.one_line`).
"""

from kubeproxy.model.objects import Record


class Said(Record, frozen=True, kw_only=True):
    """One step, and the kernel object that does it."""

    about: str
    """The step's subject (`dataplane.locate.Subject`)."""
    text: str
    rule: str = ""


class Candidate(Record, frozen=True, kw_only=True):
    """An endpoint of the Service port, used or not."""

    endpoint: str
    """`ip:port`, or the address alone when it has no such port."""
    node: str = ""
    pod: str = ""
    """Put in by the command, which asks the API server: an agent does not keep pods' names."""
    chance: float = 0.0
    """With which it gets the packet."""
    masquerade: str = ""
    """Why it does not see the client's own address; "" when it does."""
    left_out: str = ""
    """Why it gets nothing."""


class Asked(Record, frozen=True, kw_only=True):
    """The packet that was judged, with what the agent found out about it."""

    origin: str
    source: str
    interface: str
    destination: str
    port: int
    protocol: str


class Live(Record, frozen=True, kw_only=True):
    """What the kernel did with a packet that was really sent."""

    path: str
    outcome: str
    differences: tuple[str, ...] = ()
    """To the model's verdict; none when they agree."""


class Answer(Record, frozen=True, kw_only=True):
    """A packet's verdict."""

    node: str
    mode: str
    flavour: str
    family: str
    packet: Asked
    outcome: str
    service: str = ""
    """`ns/name:port`, when the destination is a Service's."""
    steps: tuple[Said, ...] = ()
    endpoints: tuple[Candidate, ...] = ()
    warnings: tuple[str, ...] = ()
    """Why the kernel may not do what is said here: the agent is late, or could not write."""
    findings: tuple[str, ...] = ()
    """What on this node may keep the packet from faring as the model says; put in by the command."""
    live: Live | None = None
    """Put in by the command when it was asked to send a packet."""
    pods_by: str = ""
    """How pods are told from others (`model.node.LocalKind`)."""
    pods_interface: str = ""
    """The interface that they come by, or what its name begins with, where it is that which tells them."""


class PortAnswer(Record, frozen=True, kw_only=True):
    """One port of a Service in one family."""

    port: str
    """`name 80/TCP`."""
    family: str
    addresses: tuple[str, ...] = ()
    """`cluster IP 10.96.0.10:80` and so on."""
    policies: tuple[str, ...] = ()
    """The traffic policies, and what follows from them here."""
    inside: tuple[Candidate, ...] = ()
    """Endpoints of traffic to the cluster IP."""
    outside: tuple[Candidate, ...] = ()
    """Endpoints of traffic from outside the cluster; empty when it is not exposed, or the same."""
    objects: tuple[str, ...] = ()
    """What is programmed for it."""
    left_out: tuple[str, ...] = ()
    """Claims lost, quarantine, what is served otherwise than was asked."""


class ServiceAnswer(Record, frozen=True, kw_only=True):
    """Everything that is programmed for a Service."""

    node: str
    mode: str
    flavour: str
    service: str
    known: bool
    ports: tuple[PortAnswer, ...] = ()
    health_check: str = ""
    notes: tuple[str, ...] = ()
    """Why nothing, or not all, is programmed; what of it was rejected."""
    warnings: tuple[str, ...] = ()
