"""What stands in the kernel and what is wanted there, for one family; every change of it becomes `Work`. Pure.

Cost of a change: that of the ports that it concerns. Whoever cannot carry out the work to its end throws the
books away and has them opened again from a `Survey`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from kubeproxy.dataplane.ipvs.draining import Draining, is_used
from kubeproxy.dataplane.ipvs.names import MARK_BASE, MARK_MASK, Set
from kubeproxy.dataplane.ipvs.part import Part, Virtual, place_of
from kubeproxy.dataplane.ipvs.refusals import key_text
from kubeproxy.dataplane.ipvs.steps import Spot, Standing, drains, making, spot, steps
from kubeproxy.dataplane.ipvs.survey import Ground, Survey
from kubeproxy.dataplane.ipvs.unions import Owned, Unions, differing
from kubeproxy.dataplane.ipvs.work import Entries, Work
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Command, Found, Server, ServerKey, Verb
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol

Parts = Mapping[ServicePortName, Part | None]
Look = Callable[[ServerKey], list[Found]]
"""Lists the destinations of a virtual server."""

_IN_THE_WAY = (
    "virtual server {} is not served: somebody else's is there, and it leads elsewhere; "
    "delete it with ipvsadm if nobody needs it"
)


class Books:
    """One family's state."""

    def __init__(self, elsewhere: frozenset[str] = frozenset()) -> None:
        """``elsewhere``: addresses that other devices have, which are not made local again."""
        self.unions = Unions()
        self.draining = Draining()
        self.servers: dict[ServerKey, Server] = {}
        """Every virtual server that we made, wanted or not."""
        self.routed: set[str] = set()
        """Virtual addresses that are local."""
        self.foreign: set[ServerKey] = set()
        """Places of ours where somebody else's virtual server is."""
        self._foreign_notes: Mapping[ServicePortName, str] | None = None
        self._by_address = 0
        """How many of ``servers`` are known by an address and not by a mark."""
        self.elsewhere = elsewhere

    def change(self, parts: Parts, look: Look) -> Work:
        """Take in the new Parts of some ports (None: it is gone)."""
        work = Work()
        delta = self.unions.apply(parts)
        work.add_all(delta.added)
        work.remove_all(delta.removed)
        for key, whole in delta.virtuals.items():
            turn = differing(whole)
            if key in self.foreign:
                self._foreign_notes = None
                if turn.after is None:
                    self.foreign.discard(key)
                continue
            protocol = _protocol(key, turn.after or turn.before)
            standing = self._standing(key, turn.before)
            if turn.after is None and standing is not None and drains(protocol, standing.server):
                used = _is_known_for_ever(key) and is_used(look(key))
                standing = Standing(standing.server, standing.weights, used)
            self._move(work, key, standing, turn.after, protocol)
        for address in delta.addresses_added:
            if address not in self.routed and address not in self.elsewhere:
                self._route(work, address)
        self._unroute(work, delta.addresses_removed)
        return work

    def correct(self, survey: Survey, parts: Parts, source: str) -> Work:
        """Open the books: from all that the kernel holds to all that is wanted; ``source`` is every route's."""
        work = Work()
        self._foreign_notes = None
        self.unions.open(parts)
        standing = survey.ground.servers
        for key, owned in self.unions.virtuals.items():
            if key not in standing:  # at a start, none is
                self.servers[key] = owned.virtual.server
                work.commands.append(making(owned.virtual))
            elif _is_foreign(survey, key, owned.virtual):
                self.foreign.add(key)
            else:
                self._move(work, key, _found_standing(survey, key), owned, _protocol(key, owned))
        protocols = survey.ground.protocols()
        for key in survey.owned - self.unions.virtuals.keys():
            protocol = key.protocol or protocols.get(key.mark)
            found = _found_standing(survey, key)
            if not _is_known_for_ever(key):
                found = Standing(found.server, found.weights, is_used=False)
            self._move(work, key, found, None, protocol)
        self._by_address = sum(1 for key in self.servers if key.address)
        self._correct_addresses(work, survey.ground, source)
        self._correct_entries(work, survey.ground)
        return work

    def drained(self, key: ServerKey, found: Iterable[Found], work: Work) -> None:
        """Take in a look at a virtual server of which something drains."""
        commands, is_done = self.draining.looked(key, found)
        work.farewells += commands
        if is_done:
            self._delete(work, key)
            self._unroute(work, [key.address])

    def mend(self, found: Mapping[ServerKey, Standing | None]) -> Work:
        """Bring virtual servers of ours back that others have changed, or deleted (None)."""
        work = Work()
        for key, standing in found.items():
            owned = self.unions.virtuals.get(key)
            if standing is not None:
                self._move(work, key, standing, owned, _protocol(key, owned))
            elif owned is not None:
                self.draining.note(key, (), None)
                work.commands.append(making(owned.virtual))
            else:
                self.drained(key, (), work)
        self._unroute(work, [key.address for key in found if key not in self.servers])
        return work

    def expected(self, key: ServerKey) -> dict[Spot, int]:
        """Return the destinations that a virtual server of ours should have, with their weights."""
        owned = self.unions.virtuals.get(key)
        return _weights(owned.virtual if owned else None, self.draining.spots.get(key, ()))

    def count(self, key: ServerKey) -> int:
        """Return how many destinations a virtual server of ours should have, those that drain among them."""
        owned = self.unions.virtuals.get(key)
        return (len(owned.virtual.destinations) if owned else 0) + len(self.draining.spots.get(key, ()))

    def foreign_notes(self) -> Mapping[ServicePortName, str]:
        """Return what to say of the ports at whose places somebody else is; the same object until it differs."""
        if self._foreign_notes is None:
            self._foreign_notes = {
                self.unions.virtuals[key].owner: _IN_THE_WAY.format(key_text(key))
                for key in sorted(self.foreign, key=key_text)
                if key in self.unions.virtuals
            }
        return self._foreign_notes

    def has_entry(self, which: Set, member: Member) -> bool:
        """Return whether a set has an entry, or never will because its address is elsewhere."""
        return self.wants_entry(which, member) or (which is Set.ADDRESSES and member in self.elsewhere)

    def wants_entry(self, which: Set, member: Member) -> bool:
        """Return whether a set should have an entry."""
        if which is Set.ADDRESSES:
            return member in self.routed
        if which is Set.SERVERS:
            assert isinstance(member, tuple)
            return ServerKey(member[1], member[0], member[2]) in self.servers
        return self.unions.has_entry(which, member)

    def sizes(self) -> dict[Set, int]:
        """Return how many entries each set should have."""
        ours = {Set.SERVERS: self._by_address, Set.ADDRESSES: len(self.routed)}
        return {**dict.fromkeys(Set, 0), **self.unions.sizes, **ours}

    def _standing(self, key: ServerKey, before: Owned | None) -> Standing | None:
        server = self.servers.get(key)
        if server is None:
            return None
        return Standing(server, _weights(before.virtual if before else None, self.draining.spots.get(key, ())))

    def _move(
        self,
        work: Work,
        key: ServerKey,
        standing: Standing | None,
        wanted: Owned | None,
        protocol: Protocol | None,
    ) -> None:
        """Bring one virtual server from what stands to what is wanted."""
        server = wanted.virtual.server if wanted else standing.server if standing else None
        if server is None:
            return
        found = steps(standing, wanted.virtual if wanted else None, drain=drains(protocol, server))
        if found.draining or standing is not None:
            self.draining.note(key, found.draining, None if wanted else server)
        self._by_address += key not in self.servers and bool(key.address)
        self.servers[key] = server
        if wanted:
            work.commands += found.commands
            if standing is None and key.address:
                work.add(Set.SERVERS, place_of(key))
            return
        work.farewells += found.commands
        if found.is_deleted:
            self._delete(work, key)

    def _delete(self, work: Work, key: ServerKey) -> None:
        work.farewells.append(Command(Verb.DELETE_SERVER, self.servers.pop(key)))
        if key.address:
            self._by_address -= 1
            work.remove(Set.SERVERS, place_of(key))

    def _route(self, work: Work, address: str) -> None:
        self.routed.add(address)
        work.addresses_added.append(address)
        work.add(Set.ADDRESSES, address)

    def _unroute(self, work: Work, addresses: Iterable[str]) -> None:
        """Let addresses go that nothing needs any more."""
        for address in addresses:
            if address in self.routed and not self._needs(address):
                self.routed.discard(address)
                work.addresses_removed.append(address)
                work.remove(Set.ADDRESSES, address)

    def _needs(self, address: str) -> bool:
        return address in self.unions.addresses or self.draining.holds(address)

    def _correct_addresses(self, work: Work, ground: Ground, source: str) -> None:
        self.routed = {address for address in self.unions.addresses if address not in self.elsewhere}
        self.routed |= {each for each in (*ground.routes, *ground.on_device) if self.draining.holds(each)}
        work.addresses_added += self.routed - ground.routes.keys() if ground.routes else self.routed
        work.addresses_moved += sorted(each for each in self.routed if ground.routes.get(each, source) != source)
        work.addresses_removed += sorted(ground.routes.keys() - self.routed)

    def _correct_entries(self, work: Work, ground: Ground) -> None:
        wanted: Entries = {which: [] for which in Set}
        for which, member in self.unions.entries:
            wanted[which].append(member)
        servers = wanted[Set.SERVERS]
        for key, owned in self.unions.virtuals.items():
            if not key.address:
                continue
            place = place_of(key)  # one for all sets: there are as many as Services
            if key not in self.foreign:
                servers.append(place)
            for which in owned.virtual.roles:
                wanted[which].append(place)
            for which, member in owned.virtual.more:
                wanted[which].append(member)
        servers += [place_of(key) for key in self.draining.unwanted if key.address]
        wanted[Set.ADDRESSES] = list(self.routed)
        work.added, work.removed = wanted, {}
        for which, there in ground.members.items():
            if there:
                stale = frozenset(there).difference(wanted[which])
                work.added[which] = [each for each in wanted[which] if each not in there]
                work.remove_all((which, each) for each in stale)


def _is_known_for_ever(key: ServerKey) -> bool:
    """Return whether a virtual server that drains will be known as ours by an agent with other settings.

    Our set keeps its name; a mark whose first byte bears the masquerade bit says nothing to one with another bit.
    """
    return not key.mark or key.mark & MARK_MASK == MARK_BASE


def _protocol(key: ServerKey, owned: Owned | None) -> Protocol | None:
    return key.protocol or (owned.owner.protocol if owned else None)


def _weights(virtual: Virtual | None, draining: Iterable[Spot]) -> dict[Spot, int]:
    weights = dict.fromkeys(draining, 0)
    if virtual is not None:
        weights.update((spot(each), 1) for each in virtual.destinations)
    return weights


def _found_standing(survey: Survey, key: ServerKey) -> Standing:
    return standing_of(survey.ground.servers[key], survey.found[key])


def standing_of(server: Server, found: Collection[Found]) -> Standing:
    """Return what stands of a virtual server with these destinations."""
    return Standing(server, {spot(each.destination): each.destination.weight for each in found}, is_used(found))


def _is_foreign(survey: Survey, key: ServerKey, wanted: Virtual) -> bool:
    """Return whether somebody else's virtual server is where ours shall be.

    One that leads nowhere but where ours shall lead is ours, and our set was lost; unless it is in a CIDR of which
    we were told to keep out.
    """
    if key in survey.owned:
        return False
    if survey.ground.is_excluded(key):
        return True
    own = set(map(spot, wanted.destinations))
    return any(spot(each.destination) not in own for each in survey.found[key])
