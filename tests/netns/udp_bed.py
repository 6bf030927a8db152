"""A node in the lab whose World is changed step by step, and UDP clients that never change their port."""

import contextlib
import socket
from collections.abc import Iterator
from functools import partial

from kubeproxy.clock import SystemClock
from kubeproxy.kernel.conntrack import KernelConntrack
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.node import node_state
from kubeproxy.model.objects import EndpointSlice, Protocol, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.sync.flows import FlowReconciler, FlowStatus
from tests.scenarios.addresses import HOSTS, POD_NETWORK, name_of
from tests.scenarios.lab import Lab
from tests.scenarios.modes import MODES

REFUSED, NOBODY = "REFUSED", "NOBODY"


class UdpNode:
    """One family's backend and reconciler in the lab's node, driven as a syncer drives them."""

    def __init__(self, lab: Lab, family: Family, mode: str) -> None:
        self.lab = lab
        self.family = family
        self.world = World()
        self._settings = Settings(node_name="node1", cluster_cidrs=tuple(POD_NETWORK.values()))
        self._backend = MODES[mode].backend(family)
        self._conntrack = KernelConntrack(family)
        self.flows = FlowReconciler(
            self._conntrack, partial(local_addresses, family), self._settings, family, SystemClock()
        )
        self._clients: dict[str, socket.socket] = {}

    def put(self, *objects: Service | EndpointSlice, reconcile: bool = True) -> FlowStatus:
        """Bring changed objects into the rules, and end the flows that are stale by them."""
        scope = set()
        for each in objects:
            key = (each.namespace, each.name)
            is_service = isinstance(each, Service)
            scope |= self.world.apply_services({key: each}) if is_service else self.world.apply_slices({key: each})

        def work() -> FlowStatus:
            full = None if self._backend.needs_full else scope
            plan = self._backend.diff(wanted(self.world, self._settings, self.family, full), full)
            if plan is not None:
                self._backend.apply(plan)
            node = node_state(self.world, self._settings, self.family)
            return self.flows.reconcile(self.world.part(full), node, full, ()) if reconcile else self.flows.status

        return self.lab.run("node", work)

    def ask(self, client: str, address: str, port: int, source_port: int = 40053) -> str:
        """Ask once, from the same port every time; return who answered and on which port, REFUSED or NOBODY."""
        name = f"{client} {address} {port} {source_port}"
        if name not in self._clients:
            own = self.lab.socket(HOSTS[client].namespace, _AF[self.family], socket.SOCK_DGRAM)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind((HOSTS[client].address(self.family), source_port))
            own.settimeout(0.5)
            own.connect((address, port))
            self._clients[name] = own
        own = self._clients[name]
        try:
            own.send(b"?")
            _, server, reached = own.recv(200).decode().split()
        except (ConnectionRefusedError, PermissionError):
            return REFUSED
        except TimeoutError:
            return NOBODY
        return f"{name_of(server)} {reached}"

    def tracked(self, protocol: Protocol, *ports: int) -> list[Flow]:
        """Return the entries of the node's table."""
        match = FlowMatch(protocol=protocol, ports=frozenset(ports))
        return self.lab.run("node", lambda: list(self._conntrack.flows(match)))

    def close(self) -> None:
        for each in self._clients.values():
            each.close()

        def work() -> None:
            self._backend.cleanup()
            for protocol in (Protocol.UDP, Protocol.TCP):
                self._conntrack.delete(list(self._conntrack.flows(FlowMatch(protocol=protocol))))

        self.lab.run("node", work)


_AF = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}


@contextlib.contextmanager
def udp_node(lab: Lab, family: Family, mode: str = "iptables-legacy") -> Iterator[UdpNode]:
    node = UdpNode(lab, family, mode)
    try:
        yield node
    finally:
        node.close()
