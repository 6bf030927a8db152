"""The set of endpoints that may be clients of their own Service, kept as the union over all ports.

Several Services may have the same endpoint, so entries are counted. An entry is in the kernel before the rule
that could send somebody to it, and leaves after that rule is gone.
"""

from collections import Counter
from typing import Protocol

from kubeproxy.dataplane.base import Change
from kubeproxy.dataplane.iptables.render import local_targets
from kubeproxy.kernel.ipset_messages import Entry

BATCH = 800


class Sets(Protocol):
    """The kernel's ipsets, as far as this page needs them."""

    def create(self, name: str) -> None:
        """Make a set of (address, port, address); it may exist already."""
        ...

    def members(self, name: str) -> set[Entry]:
        """Return what is in a set."""
        ...

    def add(self, name: str, entries: list[Entry]) -> None:
        """Put entries in; those that are in already do no harm."""
        ...

    def delete(self, name: str, entries: list[Entry]) -> None:
        """Take entries out; those that are not in do no harm."""
        ...

    def destroy(self, name: str) -> bool:
        """Remove a set unless a rule refers to it; return whether it is gone (or never was)."""
        ...


class Hairpin:
    """What should be in the set, and what is."""

    def __init__(self, sets: Sets, name: str) -> None:
        self._sets = sets
        self._name = name
        self._uses: Counter[Entry] = Counter()
        self._present: set[Entry] = set()
        self._missing: list[Entry] = []

    def adopt(self) -> None:
        """Make sure of the set and learn what it holds; forget every use."""
        self._sets.create(self._name)
        self._present = self._sets.members(self._name)
        self._uses.clear()
        self._missing.clear()

    def change(self, change: Change) -> None:
        """Count a change's entries, adding new ones to the kernel a batch at a time."""
        before = local_targets(change.before) if change.before else []
        after = local_targets(change.after) if change.after else []
        if before == after:
            return
        for entry in after:
            self._uses[entry] += 1
            if entry not in self._present:
                self._present.add(entry)
                self._missing.append(entry)
        for entry in before:
            self._uses[entry] -= 1
        if len(self._missing) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Add what is still missing."""
        if self._missing:
            self._sets.add(self._name, self._missing)
            self._missing = []

    def sweep(self, changes: list[Change] | None) -> None:
        """Take out entries that no port uses any more: those of ``changes``, or (None) all."""
        if changes is None:
            candidates = self._present
        else:
            candidates = {entry for each in changes if each.before for entry in local_targets(each.before)}
        stale = [entry for entry in candidates if self._uses[entry] <= 0]
        for entry in stale:
            del self._uses[entry]
        if stale:
            self._sets.delete(self._name, stale)
            self._present.difference_update(stale)
