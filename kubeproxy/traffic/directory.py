"""Whose is an address and port: the Service ports of one family, by place. Pure.

Cost: some 10 µs a Service; nothing of it is kept between two looks.
"""

from collections.abc import Iterable
from typing import NamedTuple

from kubeproxy.model.claims import Place
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Protocol
from kubeproxy.trace.table import Way, places
from kubeproxy.traffic.question import Question


class Owner(NamedTuple):
    """A Service port, and as what a place is its own."""

    way: Way
    state: ServiceState


class Directory:
    """One moment of one family. Frozen once built."""

    def __init__(self, node: NodeState, ports: Iterable[tuple[ServicePortName, ServiceState]]) -> None:
        self.node = node
        self.states = dict(ports)
        self._owners = {place: Owner(way, state) for state in self.states.values() for place, way in places(state)}

    def owner(self, address: str, protocol: Protocol, port: int) -> Owner | None:
        """Return whose a place is. What is no virtual address may be the node's, with a node port."""
        return self._owners.get(Place(address, protocol, port)) or self._owners.get(Place("", protocol, port))

    def asked(self, question: Question) -> list[ServiceState]:
        """Return the Service ports that a question is about."""
        return [state for name, state in self.states.items() if question.admits(name.key)]
