"""A model of the kernel's ipsets for tests, ours and our users', with knobs for what can go wrong."""

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.ipset_messages import FULL, REASONS, Member, SetType
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.kernel.sets import SetChange, without_replaced
from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.objects import Protocol

MAX_NAME = 31
_SHAPES: dict[SetType, tuple[type, ...]] = {
    SetType.ENDPOINTS: (str, Protocol, int),
    SetType.PORTS: (str, Protocol, int),
    SetType.MARKS: (str, Protocol, int, int, int),
    SetType.RANGES: (str, Protocol, int, str),
    SetType.ADDRESSES: (str,),
    SetType.CLIENTS: (str,),
    SetType.PORT_NUMBERS: (int,),
}


class FakeSets:
    """Sets of one family (or of both, without ``family``); one that a rule refers to cannot be destroyed."""

    def __init__(self, family: Family | None = None) -> None:
        self._family = family
        self.sets: dict[str, set[Member]] = {}
        self.kinds: dict[str, SetType] = {}
        self.in_use: Callable[[str], bool] = lambda name: False
        self.most = 65_535
        """How many sets there may be."""
        self.failures: list[KernelError] = []
        """Raised by the next calls of `apply`, `add` and `delete`, one each, before anything is done."""
        self.most_entries: dict[str, int] = {}
        """How many entries a set may have, where that is not the kind's own limit."""
        self.strange: Counter[str] = Counter()
        """How many entries a set has that ours never are."""
        self.refused: dict[Member, str] = {}
        """Entries that no set takes, and why."""
        self.applied: list[SetChange] = []
        """What came and went, in order."""

    def create(self, name: str, kind: SetType) -> bool:
        """See `sets.Sets.create`."""
        if not 0 < len(name) <= MAX_NAME:
            raise NetlinkError(errno.EINVAL, f"ipset {name}")
        if name not in self.sets and len(self.sets) >= self.most:
            return False
        if self.kinds.setdefault(name, kind) is not kind:
            raise KernelError(f"ipset {name}: somebody's set of another type has this name; ipset destroy {name}")
        self.sets.setdefault(name, set())
        return True

    def members(self, name: str) -> set[Member]:
        """See `sets.Sets.members`."""
        return set(self._set(name))

    def purge(self, name: str) -> None:
        """See `sets.Sets.purge`."""
        self._set(name)
        self.strange[name] = 0

    def named(self, prefix: str) -> set[str]:
        """See `sets.Sets.named`."""
        return {name for name in self.sets if name.startswith(prefix)}

    def sizes(self, prefix: str) -> dict[str, int]:
        """See `sets.Sets.sizes`."""
        found = self.sets.items()
        return {name: len(members) + self.strange[name] for name, members in found if name.startswith(prefix)}

    def size(self, name: str) -> int | None:
        """See `sets.SizedSets.size`."""
        return len(self.sets[name]) if name in self.sets else None

    def apply(self, changes: Sequence[SetChange]) -> None:
        """See `sets.Sets.apply`."""
        if self.failures:
            raise self.failures.pop(0)
        refused: dict[tuple[str, Member], str] = {}
        full: set[str] = set()
        for name, adds, deletes in changes:
            if not adds and not deletes:
                continue
            members, kind = self._set(name), self.kinds.get(name)
            gone = set(without_replaced(kind, adds, deletes))
            for entry in adds:
                if why := self._complaint(kind, entry):
                    refused[name, entry] = why
                elif kind and len(members) + (entry not in members) > self.most_entries.get(
                    name, kind.max_elements
                ):
                    refused[name, entry] = REASONS[FULL]
                    full.add(name)
                else:
                    if kind is SetType.MARKS:
                        members -= {each for each in members if _same_place(each, entry)}
                    members.add(entry)
            if kind is SetType.MARKS:
                gone = {each for each in members for entry in gone if _same_place(each, entry)}
            members -= gone
            self.applied.append((name, tuple(adds), tuple(deletes)))
        if refused:
            raise EntriesRefused(refused, {name: len(self.sets[name]) for name in full})

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """See `sets.Sets.add`."""
        self.apply([(name, entries, ())])

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """See `sets.Sets.delete`."""
        self.apply([(name, (), entries)])

    def destroy(self, name: str) -> bool:
        """See `sets.Sets.destroy`."""
        if self.in_use(name):
            return False
        self.sets.pop(name, None)
        self.kinds.pop(name, None)
        return True

    def _set(self, name: str) -> set[Member]:
        if name not in self.sets:
            raise NetlinkError(errno.ENOENT, f"ipset {name}")
        return self.sets[name]

    def _complaint(self, kind: SetType | None, entry: Member) -> str:
        """Return why the kernel would not take an entry, "" if it would."""
        if entry in self.refused:
            return self.refused[entry]
        fields: tuple[object, ...] = entry if isinstance(entry, tuple) else (entry,)
        if kind is None:
            return ""
        assert len(fields) == len(_SHAPES[kind]), f"{entry} is no entry of {kind}"
        assert all(map(isinstance, fields, _SHAPES[kind])), f"{entry} is no entry of {kind}"
        if isinstance(fields[0], str):
            assert str(ip_address(fields[0])) == fields[0], f"{entry}: is not canonical"
            assert self._family in (None, family_of(fields[0])), f"{entry}: of another family"
        if kind is SetType.RANGES:
            network = ip_network(str(fields[3]))
            assert str(network) == fields[3], f"{entry}: is not canonical"
            assert network.prefixlen > 0, f"{entry}: cannot be stored"
        return ""


def _same_place(one: Member, other: Member) -> bool:
    return isinstance(one, tuple) and isinstance(other, tuple) and one[:3] == other[:3]
