"""The ipvs backend over a model kernel, and a World to sync from."""

from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.ipvs.rule_writer import RuleWriter
from kubeproxy.dataplane.ipvs.substitutes import Replaced
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.fake_ipvs import FakeVirtualServers
from kubeproxy.kernel.fake_virtual_addresses import FakeVirtualAddresses
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Command, ServerKey, Verb
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import EndpointSlice, Protocol, Service
from kubeproxy.model.settings import Settings
from tests.backend_node import BackendNode

NODE_IP = "192.168.0.2"
VIP = ServerKey(Protocol.TCP, "10.96.0.1", 80)


class Servers(FakeVirtualServers):
    """IPVS that takes offence at single commands."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[ServerKey, int] = {}
        """Virtual servers that are neither made nor changed."""
        self.moods: list[int] = []
        """Errors that the next commands are refused with, one each; 0 lets one pass."""

    def _run(self, command: Command) -> int:
        mood = self.moods.pop(0) if self.moods else 0
        if mood:
            return mood
        if command.verb in (Verb.ADD_SERVER, Verb.SET_SERVER) and command.server.key in self.refused:
            return self.refused[command.server.key]
        return super()._run(command)


class Node(BackendNode):
    """A backend, the kernel under it, and a World to sync from."""

    def __init__(self, *objects: Service | EndpointSlice, ipvs: IpvsSettings | None = None) -> None:
        settings = Settings(
            node_name="node1", cluster_cidrs=("10.244.0.0/16",), bind_address=NODE_IP, ipvs=ipvs or IpvsSettings()
        )
        super().__init__(settings, *objects)
        self.sets = FakeSets(Family.V4)
        self.tables = FakeTables(self.sets)
        self.servers = Servers()
        self.addresses = FakeVirtualAddresses(Family.V4)
        self.sysctls = FakeSysctls()
        self.local = ["127.0.0.1", NODE_IP]
        self.replaced = Replaced()
        self.restart()

    def restart(self) -> None:
        """Start a new backend over the same kernel."""
        assert self.settings.ipvs is not None
        self.backend = IpvsBackend(
            RuleWriter(self.tables, self.sysctls, None),
            self.sets,
            self.servers,
            self.addresses,
            self.sysctls,
            Family.V4,
            self.settings.ipvs,
            lambda: (*self.local, *self.addresses.on.foreign),
            replaced=self.replaced,
        )

    def weights(self, server: ServerKey = VIP) -> dict[str, int] | None:
        """Return the destinations of a virtual server by address, None when there is no such server."""
        if server not in self.servers.servers(Family.V4):
            return None
        found = self.servers.destinations(server)
        return {each.destination.address: each.destination.weight for each in found}

    def members(self, which: Set) -> set[Member]:
        return self.sets.sets[set_name(Family.V4, which)]
