"""Sets in a table of nftables: what ipsets are, on a machine that has no iptables.

What is changed together is one transaction: all of it or nothing, in some fifty microseconds however many elements
a set has. What is in the sets is remembered, so a change need not read them. Whether anybody else has changed
anything the kernel tells by the number of its last transaction.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.netlink import DumpInterrupted, NetlinkError
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nft_set_elements import element_of, kind_of, members_of, place_of, spec_of, stored
from kubeproxy.kernel.sets import SetChange, without_replaced
from kubeproxy.model.objects import Record

COMMENT = "rules of kubeproxy in ipvs mode"
MOST_REFUSED = 16
"""With more elements refused than this, it is not the elements that are wrong."""
PATIENCE = 5
"""So often sets are read anew when somebody changes anything meanwhile."""


_Places = dict[object, tuple[Member, ...]]
"""What is in a set, or comes to be in it, by place; () for nothing."""


class _Step(Record, frozen=True, kw_only=True):
    """What happens at one place of a set; all of it or nothing."""

    name: str
    kind: SetType
    out: tuple[Member, ...]
    into: tuple[Member, ...]


class NftSets:
    """See `sets.Sets`: those of one family, all in one table. One thread at a time."""

    def __init__(self, table: NfTable) -> None:
        self._table = table
        self._kinds: dict[str, SetType | None] = {}
        self._places: dict[str, _Places] = {}
        self._has_chains = False
        self._known_at: int | None = None
        """The kernel's transaction after which it held what we remember."""
        self._is_known = False

    def create(self, name: str, kind: SetType) -> bool:
        """See `Sets.create`; there is always room. Raises KernelError."""
        self._read()
        if name not in self._kinds:
            self._commit([t.AddTable(COMMENT), t.AddSet(spec_of(kind, name))])
            self._kinds[name], self._places[name] = kind, {}
        elif self._kinds[name] is not kind:
            raise KernelError(f"nftables set {name}: somebody's set of another type has this name; delete it")
        return True

    def members(self, name: str) -> set[Member]:
        """See `Sets.members`. Raises KernelError."""
        self._read()
        self._kind(name)
        return self._remembered(name)

    def _remembered(self, name: str) -> set[Member]:
        return {each for members in self._places[name].values() for each in members}

    def purge(self, name: str) -> None:
        """See `Sets.purge`. Raises KernelError."""
        self._read()
        kind = self._kind(name)
        kept = [element_of(kind, each) for each in stored(kind, self._remembered(name))]
        self._commit([t.FlushSet(name), t.AddElements(name, kept)])

    def named(self, prefix: str) -> set[str]:
        """See `Sets.named`; none on a kernel without nftables."""
        if not self._has_nftables():
            return set()
        self._read()
        return {name for name in self._kinds if name.startswith(prefix)}

    def sizes(self, prefix: str) -> dict[str, int]:
        """See `Sets.sizes`; sets are read for it only when somebody has changed any rules or sets."""
        if self._known_at is None or self._table.generation() != self._known_at:
            return {name: size for name in self._kinds if name.startswith(prefix) for size in self._counted(name)}
        known = ((name, kind) for name, kind in self._kinds.items() if kind and name.startswith(prefix))
        return {name: len(stored(kind, self._remembered(name))) for name, kind in known}

    def apply(self, changes: Sequence[SetChange]) -> None:
        """See `Sets.apply`: all of it in one transaction. Raises EntriesRefused, KernelError."""
        if not any(adds or deletes for _, adds, deletes in changes):
            return
        if not self._is_known:
            self._read()
        steps, after = self._planned(changes)
        if steps:
            try:
                self._commit(_changes(steps)[0])
            except Refused:
                # Somebody else may have changed the sets: what is there is read again.
                self._forget()
                self._read()
                steps, after = self._planned(changes)
                self._without_refused(steps)
        for name, places in after.items():
            _note(self._places[name], places)

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """See `Sets.add`."""
        self.apply([(name, entries, ())])

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """See `Sets.delete`."""
        self.apply([(name, (), entries)])

    def destroy(self, name: str) -> bool:
        """See `Sets.destroy`; the table goes with its last set, unless there are chains in it."""
        if not self._has_nftables():
            return True
        self._read()
        if name not in self._kinds:
            return True
        is_last = len(self._kinds) == 1 and not self._has_chains
        try:
            self._table.commit([t.DeleteTable() if is_last else t.DeleteSet(name)])
        except Refused as error:
            if error.code not in (errno.EBUSY, errno.ENOENT):
                raise
            return error.code == errno.ENOENT
        finally:
            self._forget()
        return True

    def _has_nftables(self) -> bool:
        try:
            self._table.generation()
        except Refused as error:
            if error.code != errno.EOPNOTSUPP:
                raise
            return False
        return True

    def _forget(self) -> None:
        self._is_known, self._known_at = False, None

    def _read(self) -> None:
        """Learn what the kernel holds, unless that is known. Raises KernelError."""
        if self._is_known and self._table.generation() == self._known_at:
            return
        for attempt in range(PATIENCE):
            try:
                self._read_once()
                return
            except DumpInterrupted:
                if attempt == PATIENCE - 1:
                    raise

    def _read_once(self) -> None:
        generation = self._table.generation()
        self._kinds = {name: kind_of(spec) for name, spec in self._table.sets().items()}
        self._places = {
            name: _by_place(members_of(kind, self._table.family, self._table.elements(name))) if kind else {}
            for name, kind in self._kinds.items()
        }
        self._has_chains = bool(self._table.chains())
        self._is_known = True
        self._known_at = generation if self._table.generation() == generation else None

    def _commit(self, changes: Sequence[t.Change]) -> None:
        self._table.commit(changes)
        if self._known_at is not None:
            after = self._table.generation()
            # One that changes nothing, such as a flush of what is empty, is not counted.
            self._known_at = after if after - self._known_at in (0, 1) else None

    def _counted(self, name: str) -> Iterator[int]:
        """Yield how many elements the kernel has in a set; nothing when there is no such set."""
        try:
            yield sum(1 for _ in self._table.elements(name))
        except Refused as error:
            if error.code != errno.ENOENT:
                raise

    def _kind(self, name: str) -> SetType:
        kind = self._kinds.get(name)
        if kind is None:
            raise KernelError(f"nftables set {name}: there is no such set of ours")
        return kind

    def _planned(self, changes: Sequence[SetChange]) -> tuple[list[_Step], dict[str, _Places]]:
        """Return what is to be done, and what is then at the places that are touched."""
        after: dict[str, _Places] = {}
        for name, adds, deletes in changes:
            kind = self._kind(name)
            held, places = self._places[name], after.setdefault(name, {})
            for each in adds:
                place = place_of(each)
                before = places.get(place, held.get(place, ()))
                if kind is SetType.MARKS or each not in before:
                    places[place] = (each,) if kind is SetType.MARKS else (*before, each)
            for each in without_replaced(kind, adds, deletes):
                place = place_of(each)
                before = places.get(place, held.get(place, ()))
                places[place] = () if kind is SetType.MARKS else tuple(other for other in before if other != each)
        return [step for name, places in after.items() for step in self._steps(name, places)], after

    def _steps(self, name: str, places: _Places) -> Iterator[_Step]:
        kind, held = self._kind(name), self._places[name]
        for place, wanted in places.items():
            before = held.get(place, ())
            if wanted == before:
                continue
            old, new = stored(kind, before), stored(kind, wanted)
            if old != new:
                yield _Step(name=name, kind=kind, out=tuple(old - new), into=tuple(new - old))

    def _without_refused(self, steps: Sequence[_Step]) -> None:
        """Have done what the kernel does; raise EntriesRefused for the rest when that is a matter of elements."""
        refused: dict[tuple[str, Member], str] = {}
        waiting = [list(steps)] if steps else []
        while waiting:
            some = waiting.pop()
            changes, owners = _changes(some)
            try:
                self._commit(changes)
            except Refused as error:
                if error.change is None:
                    raise
                if error.element is None and len(some) > 1:
                    half = len(some) // 2
                    waiting += [some[half:], some[:half]]
                    continue
                culprit = owners[error.change][error.element or 0]
                waiting.append([step for step in some if step is not culprit])
                why = str(NetlinkError(error.code, "the kernel says"))
                refused |= {(culprit.name, each): why for each in (*culprit.into, *culprit.out)}
                if len(refused) > MOST_REFUSED:
                    self._forget()
                    raise
        if refused:
            self._forget()
            raise EntriesRefused(refused)


def _note(held: _Places, places: _Places) -> None:
    """Remember what is at some places now."""
    for place, members in places.items():
        if members:
            held[place] = members
        else:
            held.pop(place, None)


def _by_place(members: Iterable[Member]) -> _Places:
    found: _Places = {}
    for each in members:
        place = place_of(each)
        found[place] = (*found.get(place, ()), each)
    return found


def _changes(steps: Sequence[_Step]) -> tuple[list[t.Change], list[list[_Step]]]:
    """Return steps as one transaction, and of each change whose each element is.

    What leaves comes first, as ranges that overlap are refused.
    """
    out: dict[str, list[tuple[t.Element, _Step]]] = {}
    into: dict[str, list[tuple[t.Element, _Step]]] = {}
    for step in steps:
        for lists, members in ((out, step.out), (into, step.into)):
            if members:
                lists.setdefault(step.name, []).extend((element_of(step.kind, each), step) for each in members)
    changes: list[t.Change] = [t.DeleteElements(name, [each for each, _ in rows]) for name, rows in out.items()]
    changes += [t.AddElements(name, [each for each, _ in rows]) for name, rows in into.items()]
    owners = [[step for _, step in rows] for rows in (*out.values(), *into.values())]
    return changes, owners
