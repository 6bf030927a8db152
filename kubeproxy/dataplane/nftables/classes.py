"""Which number stands for which class of places, and how many places have it. Pure.

A number is this table's own affair, so any free one does; but an agent that restarts keeps those that it finds in
the kernel, so that nothing has to be written again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from sys import byteorder

from kubeproxy.dataplane.nftables.names import (
    FIRST_CLASS,
    FIRST_ENDPOINT,
    MAX_CLASSES,
    PICKS,
    SHORT_CIRCUIT_PICKS,
    Class,
    Kind,
)
from kubeproxy.kernel.nf_tables.expressions import Decide, VerdictWord
from kubeproxy.kernel.nf_tables.fields import number
from kubeproxy.kernel.nf_tables.types import Element


class Classes(dict[Class, bytes]):
    """Codes, by class: packed numbers. A class that has none gets one."""

    def __init__(self, found: Mapping[str, bytes] | None = None) -> None:
        """See the module; ``found``: codes in the kernel, by the chain that they lead to, whoever chose them."""
        super().__init__()
        self._found = {chain: code for chain, code in (found or {}).items() if _is_for_classes(code)}
        self._occupied = set(self._found.values())
        self._next = FIRST_CLASS
        self.uses: Counter[Class] = Counter()
        """Of classes that places have, how many."""
        self.standing: set[Class] = set()
        """Classes whose chains are in the kernel."""

    def __missing__(self, which: Class) -> bytes:
        """Return a class's code, a new one. Raises OverflowError when there is none: eight million have one."""
        code = self._found.pop(which.chain, None) or self._new()
        self[which] = code
        return code

    def _new(self) -> bytes:
        for _ in range(MAX_CLASSES):
            code = number(self._next)
            self._next = FIRST_CLASS + (self._next + 1 - FIRST_CLASS) % MAX_CLASSES
            if code not in self._occupied:
                self._occupied.add(code)
                return code
        raise OverflowError("no number is left for another class of places")

    def count(self, come: Iterable[Class], gone: Iterable[Class] = ()) -> list[Class]:
        """Count uses; return the classes that have to be made now."""
        self.uses.update(come)
        self.uses.subtract(gone)
        fresh = [which for which in dict.fromkeys(come) if which not in self.standing]
        self.standing.update(fresh)
        return fresh

    def unused(self) -> list[Class]:
        """Return the classes that stand and that no place has."""
        return [which for which in self.standing if self.uses[which] <= 0]

    def drop(self, which: Class) -> None:
        """Forget a class that is not in the kernel any more; its code is free again."""
        self.standing.discard(which)
        self._occupied.discard(self.pop(which))
        del self.uses[which]


def _is_for_classes(code: bytes) -> bool:
    """Return whether a code is none of those that are endpoints' numbers, or other people's priorities."""
    return FIRST_CLASS <= int.from_bytes(code, byteorder) < FIRST_ENDPOINT


def pick_of(which: Class, code: bytes) -> tuple[str, Element]:
    """Return the element that leads from a class's code to its chain, and the map where it belongs."""
    where = SHORT_CIRCUIT_PICKS if which.kind is Kind.PICK else PICKS
    return where, Element(code, Decide(VerdictWord.GOTO, which.chain))


def codes_in(picks: Iterable[Element]) -> dict[str, bytes]:
    """Return the codes that elements of the maps of verdicts have, by the chain that they lead to."""
    return {each.data.chain: each.key for each in picks if isinstance(each.data, Decide) and each.data.chain}
