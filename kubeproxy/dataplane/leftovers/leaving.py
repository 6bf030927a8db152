"""Leaving ipvs mode, ours or kube-proxy's: virtual servers and their addresses go once nobody passes them.

A connection through a virtual server ends with it. So where another mode serves now, a virtual server stays, with
weight 0 all over, while connections through it are open, and its address stays local as long; new connections
are the other mode's, whose rules come first. Ours are those that our set names or that bear a mark of ours, and on
a node that kube-proxy had, those that its sets name. Nobody else's is touched.

UDP has no connections: what the kernel tracks of its flows is forgotten, so that the next packet is the other
mode's, and the virtual servers go at once.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from kubeproxy.dataplane.iptables import names as iptables_names
from kubeproxy.dataplane.ipvs.kernel_state import DEFAULT_MASQUERADE_BIT
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.ipvs.part import place_of
from kubeproxy.dataplane.ipvs.refusals import key_text
from kubeproxy.dataplane.ipvs.steps import Spot, spot
from kubeproxy.dataplane.ipvs.survey import PREFIX, is_within, owning, upstream_places
from kubeproxy.dataplane.leftovers import upstream
from kubeproxy.kernel.conntrack import Conntrack
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.ipvs_types import Command, Destination, Found, Server, ServerKey, Verb
from kubeproxy.kernel.sets import Sets
from kubeproxy.kernel.virtual_addresses import Addresses
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import FlowMatch
from kubeproxy.model.objects import Protocol, Record

_HARMLESS = frozenset((0, 2, 3))
"""Done; ENOENT, ESRCH: somebody else has deleted it."""

STAYING_SETS = (Set.SERVERS, Set.ADDRESSES, Set.SHORT_CIRCUIT)
"""They tell whose virtual servers are, and what is local on their account."""


class Left(Record, frozen=True, kw_only=True):
    """What has to wait."""

    established: int = 0
    connections: int = 0
    """Those through virtual servers that stay; closed ones too, which the kernel remembers for two minutes."""

    @property
    def waits(self) -> bool:
        """Whether virtual servers stay."""
        return bool(self.connections)


NOTHING_LEFT = Left()


class Farewell(Record, frozen=True, kw_only=True):
    """What becomes of virtual servers. Pure."""

    commands: list[Command]
    staying: dict[ServerKey, Server]
    untracked: frozenset[Spot]
    """Places whose UDP flows are to be forgotten first."""
    left: Left


def farewell(
    owned: Mapping[ServerKey, Server],
    found: Mapping[ServerKey, Sequence[Found]],
    protocols: Mapping[int, Protocol],
    *,
    at_once: bool,
) -> Farewell:
    """Decide what becomes of virtual servers; ``protocols`` are those of marks. ``at_once``: none may stay."""
    commands: list[Command] = []
    staying: dict[ServerKey, Server] = {}
    untracked: set[Spot] = set()
    established = connections = 0
    for key, server in owned.items():
        is_udp = (key.protocol or protocols.get(key.mark)) is Protocol.UDP
        used = sum(each.active + each.inactive for each in found[key])
        if is_udp and key.address:
            untracked.add((key.address, key.port))
        if at_once or is_udp or not used:
            commands.append(Command(Verb.DELETE_SERVER, server))
            continue
        staying[key] = server
        established += sum(each.active for each in found[key])
        connections += used
        commands += [
            Command(Verb.SET_DESTINATION, server, Destination(*spot(each.destination), weight=0))
            for each in found[key]
            if each.destination.weight
        ]
    left = Left(established=established, connections=connections)
    return Farewell(commands=commands, staying=staying, untracked=frozenset(untracked), left=left)


class Leaving:
    """One family's virtual servers, addresses and sets of ipvs mode. Blocking; raises KernelError, OSError."""

    def __init__(
        self,
        family: Family,
        sets: Sets,
        servers: VirtualServers,
        addresses: Addresses,
        conntrack: Conntrack,
        local_addresses: Callable[[], Collection[str]],
        excluded: Collection[str] = (),
        seen: Sets | None = None,
    ) -> None:
        """See the class; in the CIDRs ``excluded``, what kube-proxy's sets name and its device has is nobody's.

        What is in ``seen`` counts, where sets of another place tell of virtual servers too; ``sets`` are written.
        """
        self._family = family
        self._sets = sets
        self._seen = seen or sets
        self._servers = servers
        self._addresses = addresses
        self._conntrack = conntrack
        self._local_addresses = local_addresses
        self._excluded = excluded

    def leave(self, *, has_device: bool, at_once: bool) -> Left:
        """Take away what nobody passes any more; ``has_device``: whether the mode's own device is there."""
        present = self._seen.named(PREFIX[self._family])
        if not has_device and present.isdisjoint(_telling_sets(self._family)):
            return NOTHING_LEFT  # asking for virtual servers would load a module
        members = {
            which: self._seen.members(name) if name in present else set()
            for which in STAYING_SETS
            for name in [set_name(self._family, which)]
        }
        plan = self._plan(members, present, at_once=at_once)
        local = self._addresses.held().keys() | self._on_device() if has_device else frozenset()
        needed = frozenset(_addresses(plan.staying, members)) & local
        entries = frozenset(place_of(key) for key in plan.staying if key.address)
        if plan.staying:
            self._enter(Set.SERVERS, SetType.PORTS, entries)
            self._enter(Set.ADDRESSES, SetType.ADDRESSES, needed)
        self._forget_flows(plan.untracked)
        self._run(plan.commands)
        if has_device:
            self._unroute(needed)
        if plan.staying:
            self._take_out(Set.SERVERS, members[Set.SERVERS] - entries)
            self._take_out(Set.ADDRESSES, members[Set.ADDRESSES] - needed)
        return plan.left

    def _plan(
        self, members: Mapping[Set, Collection[Member]], present: Collection[str], *, at_once: bool
    ) -> Farewell:
        local = frozenset(self._local_addresses())
        is_upstreams = upstream_places(self._family, present, self._seen.members, local, self._excluded)
        is_ours = owning(members, is_upstreams, (), DEFAULT_MASQUERADE_BIT)
        servers = self._servers.servers(self._family) if self._servers.available() else {}
        owned = {key: server for key, server in servers.items() if is_ours(key)}
        found = {key: self._servers.destinations(key) for key in owned}
        marks = {
            mark | 1 << bit: entry[1]
            for entry in members[Set.SHORT_CIRCUIT]
            if isinstance(entry, tuple) and len(entry) == 5
            for mark in [entry[3]]
            for bit in range(32)
        }
        return farewell(owned, found, marks, at_once=at_once)

    def _forget_flows(self, places: frozenset[Spot]) -> None:
        if places:
            match = FlowMatch(protocol=Protocol.UDP, ports=frozenset(port for _, port in places))
            flows = [flow for flow in self._conntrack.flows(match) if (flow.destination, flow.port) in places]
            if flows:
                self._conntrack.delete(flows)

    def _run(self, commands: Sequence[Command]) -> None:
        codes = self._servers.run(commands) if commands else []
        for command, code in zip(commands, codes, strict=True):
            if code not in _HARMLESS:
                raise KernelError(f"virtual server {key_text(command.server.key)} stays: {os.strerror(code)}")

    def _unroute(self, needed: frozenset[str]) -> None:
        if gone := sorted(self._addresses.held().keys() - needed):
            self._addresses.remove(gone)
        if gone := sorted(self._on_device() - needed):
            self._addresses.remove_addresses(gone)
        if not needed:
            self._addresses.remove_device()

    def _on_device(self) -> frozenset[str]:
        """Return kube-proxy's addresses."""
        found = self._addresses.foreign_addresses()
        return frozenset(each for each in found if not is_within(each, self._excluded))

    def _enter(self, which: Set, kind: SetType, entries: Collection[Member]) -> None:
        """Put entries into our own set, whatever another place's set of the name has."""
        name = set_name(self._family, which)
        if not self._sets.create(name, kind):
            raise KernelError(
                f"no room for ipset {name}: this node has all that the kernel allows; see ipset list"
            )
        if missing := set(entries) - self._sets.members(name):
            self._sets.add(name, list(missing))

    def _take_out(self, which: Set, stale: Collection[Member]) -> None:
        if stale:
            self._sets.delete(set_name(self._family, which), list(stale))


def _telling_sets(family: Family) -> frozenset[str]:
    """Return the sets that only a node with an ipvs mode has."""
    every = frozenset((*upstream.IPVS_SETS[family], *upstream.OUR_IPVS_SETS[family]))
    return every.difference(iptables_names.SETS[family])


def _addresses(staying: Collection[ServerKey], members: Mapping[Set, Collection[Member]]) -> Iterator[str]:
    """Yield what must be local for these virtual servers: for a mark, every address that leads to it."""
    yield from (key.address for key in staying if key.address)
    if any(key.mark for key in staying):
        yield from (entry[0] for entry in members[Set.SHORT_CIRCUIT] if isinstance(entry, tuple))
