"""ipsets whose entries are the union over all Service ports: endpoints that may be their own clients, cluster IPs.

Several ports may have the same entry, so entries are counted. An entry is in the kernel before the rules that
rely on it, and leaves after they are gone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from kubeproxy.dataplane.base import Change
from kubeproxy.kernel.ipset_messages import Entry, Member, SetType
from kubeproxy.model.desired import ServiceState

BATCH = 800


class Sets(Protocol):
    """The kernel's ipsets, as far as this page needs them."""

    def create(self, name: str, kind: SetType) -> None:
        """Make a set; one of this name and type may exist already."""
        ...

    def members(self, name: str) -> set[Member]:
        """Return what is in a set."""
        ...

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """Put entries in; those that are in already do no harm."""
        ...

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """Take entries out; those that are not in do no harm."""
        ...

    def named(self, prefix: str) -> set[str]:
        """Return the names of this family's sets that begin so."""
        ...

    def destroy(self, name: str) -> bool:
        """Remove a set unless a rule refers to it; return whether it is gone (or never was)."""
        ...


def hairpin_entries(state: ServiceState) -> Sequence[Entry]:
    """Return the endpoints of a port that may be clients of their own Service."""
    protocol = state.name.protocol
    return [(each.address, protocol, each.port) for each in state.reachable if each.may_be_local]


def cluster_ips(state: ServiceState) -> Sequence[str]:
    """Return a port's cluster IP, if it owns one."""
    return (state.cluster_ip,) if state.cluster_ip else ()


class SharedSet:
    """What should be in one set, and what is."""

    def __init__(
        self, sets: Sets, name: str, kind: SetType, entries: Callable[[ServiceState], Sequence[Member]]
    ) -> None:
        self._sets = sets
        self._name = name
        self._kind = kind
        self._entries = entries
        self._uses: dict[Member, int] = {}
        """How many ports need each entry that is, or is about to be, in the kernel."""
        self._missing: list[Member] = []

    def adopt(self) -> None:
        """Make sure of the set and learn what it holds; forget every use."""
        self._sets.create(self._name, self._kind)
        self._uses = dict.fromkeys(self._sets.members(self._name), 0)
        self._missing.clear()

    def change(self, change: Change) -> None:
        """Count a change's entries, adding new ones to the kernel a batch at a time."""
        before = () if change.before is None else self._entries(change.before)
        after = () if change.after is None else self._entries(change.after)
        if before == after:
            return
        uses = self._uses
        for entry in after:
            count = uses.get(entry)
            if count is None:
                count = 0
                self._missing.append(entry)
            uses[entry] = count + 1
        for entry in before:
            uses[entry] -= 1
        if len(self._missing) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Add what is still missing."""
        if self._missing:
            self._sets.add(self._name, self._missing)
            self._missing = []

    def sweep(self, changes: Iterable[Change] | None) -> None:
        """Take out entries that no port uses any more: those of ``changes``, or (None) all."""
        uses = self._uses
        if changes is None:
            stale = [entry for entry, count in uses.items() if count <= 0]
        else:
            touched = {entry for each in changes if each.before for entry in self._entries(each.before)}
            stale = [entry for entry in touched if uses[entry] <= 0]
        if stale:
            self._sets.delete(self._name, stale)
        for entry in stale:
            del uses[entry]
