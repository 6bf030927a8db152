"""What `agent_bed.py` needs to let an agent live through a history in ipvs mode, over a model of the kernel.

Somebody else has a virtual server there too. One endpoint's address is none that IPVS takes. Some endpoints always
have connections (`is_busy`), until `calm`.
"""

import errno
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

import msgspec

from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.ipvs.part import place_of
from kubeproxy.dataplane.ipvs.rule_writer import RuleWriter
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.fake_virtual_addresses import FakeDevice, FakeVirtualAddresses
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import (
    Command,
    Destination,
    Found,
    Server,
    ServerKey,
    Verb,
)
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.kernel.virtual_addresses import Addresses
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import Protocol as Transport
from kubeproxy.model.settings import Settings
from tests.ipvs_node import Servers
from tests.property.agent_bed import FOREIGN, TABLES, Agent, Kernel
from tests.property.saved_tables import Chains, parse
from tests.property.strategies_histories import Cluster, History, Turn
from tests.scenarios.addresses import ALT, HOSTS, NODE

T = TypeVar("T")

IPVS = IpvsSettings()
OTHERS = {
    Family.V4: Server(ServerKey(Transport.TCP, "192.0.2.1", 443), "lc"),
    Family.V6: Server(ServerKey(Transport.TCP, "2001:db8:ffff::1", 443), "lc"),
}
"""Somebody else's virtual servers."""
LOCAL = {
    Family.V4: ("127.0.0.1", NODE.v4, ALT.v4),
    Family.V6: ("::1", NODE.v6, ALT.v6),
}


class FakeIpvsKernel:
    """See `agent_bed.Kernel`: tables, sets, virtual servers and addresses of both families."""

    def __init__(self) -> None:
        self.masquerade = 0
        """The bit that the second of a port's two marks has, by the settings of the last agent."""
        self._sets = {family: FakeSets(family) for family in Family}
        self.tables = {family: FakeTables(self._sets[family]) for family in Family}
        self.servers = Servers()
        self.servers.no_hosts = {HOSTS["be4"].address(family) for family in Family}
        self.device = FakeDevice()
        self.addresses = {family: FakeVirtualAddresses(family, self.device) for family in Family}
        for family in Family:
            self._add_foreign(family)
        make_others(self.servers)

    def backend(self, family: Family) -> IpvsBackend:
        """See `agent_bed.Kernel.backend`."""
        return IpvsBackend(
            RuleWriter(self.tables[family], FakeSysctls(), None),
            self._sets[family],
            self.servers,
            self.addresses[family],
            FakeSysctls(),
            family,
            IPVS,
            lambda: LOCAL[family],
        )

    def run(self, function: Callable[[], T]) -> T:
        """See `agent_bed.Kernel.run`."""
        return function()

    def spoil(self, family: Family, at_commit: int) -> None:
        """See `agent_bed.Kernel.spoil`: by the number, another part of the kernel fails."""
        self.tables[family].fail_next = "the xtables lock is held" if at_commit == 1 else ""
        self._sets[family].failures = [KernelError("no buffer space")] if at_commit == 2 else []
        self.servers.moods = [0, errno.ENOBUFS] if at_commit == 3 else []

    def flush(self, family: Family, table: str) -> None:
        """See `agent_bed.Kernel.flush`: whoever flushes a table does more than that."""
        self.tables[family].flush(table)
        if table == "nat":
            self._add_foreign(family)
        elif table == "filter":
            ours = sorted((key for key in self.servers.servers(family) if key != OTHERS[family].key), key=repr)
            self.servers.run([Command(Verb.DELETE_SERVER, Server(key)) for key in ours[::2]])
            self.device.vanish()
        else:
            for members in self._sets[family].sets.values():
                members.clear()

    def saved(self, family: Family) -> dict[str, Chains]:
        """See `agent_bed.Kernel.saved`."""
        return {table: parse(self.tables[family].save(table)) for table in TABLES}

    def sets(self, family: Family) -> dict[str, set[object]]:
        """See `agent_bed.Kernel.sets`; and all else."""
        return described(family, self._sets[family].sets, self.servers, self.addresses[family], self.masquerade)

    def _add_foreign(self, family: Family) -> None:
        chain, rule = FOREIGN[family]
        self.tables[family].tables["nat"][chain].append(rule)

    def busy(self) -> None:
        """Let half of all endpoints have connections."""
        everyone = self.servers.destinations

        def destinations(key: ServerKey) -> list[Found]:
            return [
                msgspec.structs.replace(each, active=1) if _is_busy(each.destination) else each
                for each in everyone(key)
            ]

        self.servers.destinations = destinations  # type: ignore[method-assign]

    def calm(self) -> None:
        """Let all connections end."""
        del self.servers.destinations

    def check_ownership(self) -> None:
        """See `check_ownership`."""
        for family in Family:
            named = self._sets[family].sets.get(set_name(family, Set.SERVERS), set())
            check_ownership(family, named, self.servers)


def described(
    family: Family,
    sets: Mapping[str, Collection[object]],
    servers: VirtualServers,
    addresses: Addresses,
    masquerade: int,
) -> dict[str, set[object]]:
    """Return sets, virtual servers and addresses, each mark written as what it stands for."""
    short = set_name(family, Set.SHORT_CIRCUIT)
    meaning: dict[int, set[object]] = {}
    found: dict[str, set[object]] = {name: set(members) for name, members in sets.items()}
    for member in found.pop(short, ()):
        assert isinstance(member, tuple)
        meaning.setdefault(member[3], set()).add(member[:3])
    found[short] = {place for places in meaning.values() for place in places}
    found["addresses"] = set(addresses.held().items())
    found["virtual servers"] = set()
    for key, server in servers.servers(family).items():
        destinations = frozenset(each.destination for each in servers.destinations(key))
        what: object = server
        if key.mark:
            places = frozenset(meaning.get(key.mark & ~masquerade, ()))
            what = places, bool(key.mark & masquerade), server.scheduler, server.flags
        found["virtual servers"].add((what, destinations))
    return found


def check_ownership(family: Family, named: Collection[Member], servers: VirtualServers) -> None:
    """Everything that is not somebody else's is named as ours, and somebody else's is as it was."""
    keys = servers.servers(family).keys()
    assert OTHERS[family].key in keys
    assert len(servers.destinations(OTHERS[family].key)) == 1
    ours = {place_of(key) for key in keys if key.address and key != OTHERS[family].key}
    assert ours <= set(named), ours - set(named)


def make_others(servers: VirtualServers) -> None:
    """Let somebody else have virtual servers."""
    for family, other in OTHERS.items():
        address = "192.0.2.9" if family is Family.V4 else "2001:db8:ffff::9"
        destination = Destination(address, 80)
        servers.run([Command(Verb.ADD_SERVER, other), Command(Verb.ADD_DESTINATION, other, destination)])


def _is_busy(destination: Destination) -> bool:
    return destination.port % 2 == 0 and destination.address[-1] in "0123456789abcdef"[::2]


def in_ipvs_mode(settings: Settings) -> Settings:
    """Return settings as they are in ipvs mode."""
    return msgspec.structs.replace(settings, ipvs=IPVS)


class IpvsKernel(Kernel, Protocol):
    """The model kernel, or the real one (`tests/uml/ipvs_kernel.py`)."""

    masquerade: int

    def busy(self) -> None:
        """Let some endpoints have connections."""
        ...

    def calm(self) -> None:
        """Let all connections end."""
        ...

    def check_ownership(self) -> None:
        """Check that everything is either named as ours or as somebody else left it."""
        ...


def live(history: History, kernel: IpvsKernel, *, busy: bool = True) -> tuple[Cluster, Agent]:
    """Play a history, up to its last write, and wait for the last connection of what is gone."""
    cluster, agent = Cluster(), Agent(kernel, in_ipvs_mode(history.settings))
    if busy:
        kernel.busy()
    for step in history.steps:
        for event in step.events:
            agent.hear(event.happen(cluster))
        agent.turn(msgspec.structs.replace(step, settings=in_ipvs_mode(step.settings)))
        if step.turn not in (Turn.SURPRISE, Turn.FLUSH):
            kernel.check_ownership()
        agent.observe()
    agent.settle()
    if busy:
        kernel.calm()
    for _ in range(2):
        agent.observe()
        agent.settle()
    kernel.check_ownership()
    kernel.masquerade = 1 << agent.settings.masquerade_bit
    return cluster, agent


def fresh(cluster: Cluster, settings: Settings, kernel: IpvsKernel | None = None) -> Agent:
    """Return an agent that has written a cluster's state into an empty kernel."""
    kernel = kernel or FakeIpvsKernel()
    kernel.masquerade = 1 << settings.masquerade_bit
    agent = Agent(kernel, settings, cluster.world(backwards=True))
    agent.settle()
    return agent
