"""What ipvs mode writes in the kernel beside its rules, for one family: read as a whole, changed in order.

Calls go to the objects that are passed in, on the calling thread; every method raises KernelError and OSError.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import ip_address

from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.ipvs.part import place_of
from kubeproxy.dataplane.ipvs.refusals import Judgement, judge, undoing
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.dataplane.ipvs.survey import PREFIX, Ground, Survey, is_within, owning, stale_sets, upstream_places
from kubeproxy.dataplane.ipvs.work import Work
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_overview import Overview
from kubeproxy.kernel.ipvs_types import (
    Command,
    Destination,
    Found,
    Server,
    ServerKey,
    Verb,
    singly,
)
from kubeproxy.kernel.sets import AlsoRead, Sets
from kubeproxy.kernel.virtual_addresses import Addresses
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import NodeState

DEFAULT_MASQUERADE_BIT = 14
"""Until a node's own is known."""

Entries = Sequence[tuple[Set, list[Member]]]
Endpoints = Sequence[tuple[ServerKey, Destination, str]]
"""See `Judgement.endpoints`."""


class CommandsRefused(KernelError):
    """Some commands of a run were refused; the others are done."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.text)
        self.judgement = judgement


class KernelState:
    """One family's sets, virtual addresses and virtual servers."""

    def __init__(
        self,
        family: Family,
        sets: Sets,
        servers: VirtualServers,
        addresses: Addresses,
        local_addresses: Callable[[], Collection[str]],
        excluded: Collection[str] = (),
        past: Sets | None = None,
    ) -> None:
        """See the class; in the CIDRs ``excluded``, what kube-proxy has, or looks like ours, is not taken over.

        ``past`` has the sets of a predecessor with other means, where there may be any.
        """
        self._family = family
        self._sets = sets
        self._past = past
        self._told = sets if past is None else AlsoRead(sets, past)
        """What says whose virtual servers are."""
        self._servers = servers
        self._addresses = addresses
        self._local_addresses = local_addresses
        self._excluded = tuple(excluded)
        self.source = ""
        """Which of its addresses this node has when it speaks to a virtual one; "" leaves it to the kernel."""
        self._masquerade_bit = DEFAULT_MASQUERADE_BIT
        self._device: int | None = None
        self._made: set[ServerKey] = set()
        """Virtual servers that are ours for sure; what no set says after somebody has emptied it."""

    def prepare(self) -> None:
        """Make sure of IPVS, the device and the sets."""
        if not self._servers.available():  # asking loads it, and its sysctls come with it
            raise KernelError("this kernel has no IPVS: modprobe ip_vs, or use iptables mode")
        self._device = self._addresses.ensure_device()
        for which, kind in KINDS.items():
            name = self._name(which)
            if not self._sets.create(name, kind):
                raise KernelError(
                    f"no room for ipset {name}: this node has all that the kernel allows; see ipset list"
                )

    def ground(self, node: NodeState) -> Ground:
        """Read addresses, sets and virtual servers; what is written from now on is for this node."""
        present = self._told.named(PREFIX[self._family])
        self._inherit()
        on_device = self._addresses.foreign_addresses()
        elsewhere = frozenset(self._local_addresses()) - on_device
        known = node.node_ip in elsewhere and not ip_address(node.node_ip).is_loopback
        self.source = node.node_ip if known else ""
        self._masquerade_bit = node.masquerade_bit
        return Ground(
            members=self._members(),
            is_upstreams=self._upstream_places(present),
            is_excluded=lambda key: self._is_excluded(key.address),
            routes=self._addresses.held(),
            on_device=on_device,
            elsewhere=elsewhere,
            masquerade_mark=node.mark,
            servers=self.servers(),
        )

    def _members(self) -> dict[Set, set[Member]]:
        """Read every set; what is in there and never could be ours goes at once, as no difference shows it."""
        found = {which: self.members(which) for which in Set}
        sizes = self.set_sizes()
        for which, members in found.items():
            if sizes.get(self._name(which), 0) > len(members):
                self._sets.purge(self._name(which))
        return found

    def _inherit(self) -> None:
        """Take as ours what a predecessor's sets say is: they are removed later, as leftovers."""
        name = self._name(Set.SERVERS)
        if self._past is not None and name in self._past.named(PREFIX[self._family]):
            for each in self._past.members(name):
                if isinstance(each, tuple):
                    self._made.add(ServerKey(each[1], each[0], each[2]))

    def survey(self, ground: Ground, wanted: Collection[ServerKey]) -> Survey:
        """Find out what of the virtual servers is ours, and read the destinations of these and of those wanted."""
        is_ours = owning(ground.members, ground.is_upstreams, self._made, self._masquerade_bit)
        owned = frozenset(filter(is_ours, ground.servers))
        self._made = set(owned)
        found = {key: self.destinations(key) for key in ground.servers if key in owned or key in wanted}
        return Survey(ground=ground, owned=owned, found=found)

    def servers(self) -> dict[ServerKey, Server]:
        """List all virtual servers."""
        return self._servers.servers(self._family)

    def count(self) -> int | None:
        """Count all virtual servers; see `VirtualServers.count`."""
        return self._servers.count(self._family)

    def overview(self) -> Overview | None:
        """Tell of all virtual servers at once; see `VirtualServers.overview`."""
        return self._servers.overview(self._family)

    def elsewhere(self) -> frozenset[str]:
        """Return the addresses that devices have, but for those of ours that we were told to keep out of."""
        found = frozenset(self._local_addresses())
        if self._excluded:
            found -= {each for each in self._addresses.foreign_addresses() if self._is_excluded(each)}
        return found

    def has_device(self) -> bool:
        """Return whether the device is that of the last full sync: whoever deletes it takes all routes along."""
        return self._addresses.device() == self._device

    def routes(self) -> dict[str, str]:
        """List the virtual addresses that are local."""
        return self._addresses.held()

    def set_sizes(self) -> dict[str, int]:
        """Return how many entries each set has."""
        return self._sets.sizes(PREFIX[self._family])

    def members(self, which: Set) -> set[Member]:
        """List what is in a set."""
        return self._sets.members(self._name(which))

    def destinations(self, key: ServerKey) -> list[Found]:
        """List the destinations of a virtual server."""
        return self._servers.destinations(key)

    def perform(self, work: Work, write_rules: Callable[[], None] | None = None) -> Endpoints:
        """Carry out work; ``write_rules`` is called when everything that rules lead to stands.

        Returns the destinations that the kernel will not have; all else is done.
        """
        self._change(work.entries_first(), add=True)
        refused = self._run(work.commands, work.added.get(Set.SERVERS, ()))
        if work.addresses_added:
            self._addresses.add(work.addresses_added, self.source)
        if work.addresses_moved:
            self._addresses.set_source(work.addresses_moved, self.source)
        self._change(work.entries_then(), add=True)
        if write_rules is not None:
            write_rules()
        if work.addresses_removed:
            self._addresses.remove(work.addresses_removed)
        self._change(work.entries_leaving(), add=False)
        self._run(work.farewells)
        self._change(work.entries_last(), add=False)
        return refused

    def clear_device(self, ground: Ground) -> None:
        """Remove kube-proxy's addresses, which are local by our routes now or not wanted.

        Its sets go with its last chains (`leftovers`).
        """
        self._remove_from_device(ground.on_device)

    def clear(self) -> list[str]:
        """Remove everything of this family; return complaints about what is left."""
        present = self._sets.named(PREFIX[self._family])
        names = {which: self._name(which) for which in Set}
        members = {which: self._sets.members(name) if name in present else set() for which, name in names.items()}
        is_ours = owning(members, self._upstream_places(present), self._made, self._masquerade_bit)
        servers = self.servers() if self._servers.available() else {}
        self._run([Command(Verb.DELETE_SERVER, server) for key, server in servers.items() if is_ours(key)])
        self._addresses.remove(sorted(self._addresses.held()))
        self._remove_from_device(self._addresses.foreign_addresses())
        self._addresses.remove_device()
        own = (*names.values(), *stale_sets(self._family, present))
        stuck = [name for name in own if not self._sets.destroy(name)]
        return [f"set {name} stays: delete the rule that refers to it" for name in stuck]

    def _remove_from_device(self, addresses: Iterable[str]) -> None:
        going = sorted(each for each in addresses if not self._is_excluded(each))
        if going:
            self._addresses.remove_addresses(going)

    def _upstream_places(self, present: Collection[str]) -> Callable[[ServerKey], bool]:
        return upstream_places(
            self._family, present, self._told.members, frozenset(self._local_addresses()), self._excluded
        )

    def _is_excluded(self, address: str) -> bool:
        return bool(address) and is_within(address, self._excluded)

    def _change(self, entries: Entries, *, add: bool) -> None:
        if entries:
            nothing: list[Member] = []
            self._sets.apply(
                [
                    (self._name(which), each if add else nothing, nothing if add else each)
                    for which, each in entries
                ]
            )

    def _run(self, commands: list[Command], fresh: Collection[Member] = ()) -> Endpoints:
        """Have commands carried out; ``fresh``: which virtual servers our set names since a moment ago.

        Returns the destinations that the kernel will not have.
        """
        if not commands:
            return ()
        codes = self._servers.run(commands)
        is_refused = any(codes)
        if is_refused:
            commands = list(singly(commands))
        add, delete = Verb.ADD_SERVER, Verb.DELETE_SERVER
        for command, code in zip(commands, codes, strict=is_refused):
            if command.verb is add and not code:
                self._made.add(command.server.key)
            elif command.verb is delete:
                self._made.discard(command.server.key)
        if not is_refused:
            return ()
        judgement = judge(commands, codes, os.strerror)
        named = frozenset(fresh)
        taken = {key: place_of(key) for key in judgement.taken if key.address and place_of(key) in named}
        if taken:
            # Not ours, so they must not have our destinations, and our set must not name them.
            self._servers.run(undoing(commands, codes, taken))
            self._sets.delete(self._name(Set.SERVERS), list(taken.values()))
        if judgement:
            raise CommandsRefused(judgement)
        return judgement.endpoints

    def _name(self, which: Set) -> str:
        return set_name(self._family, which)
