"""Which number stands for which class of places, and how many places have it. Pure.

A number is this table's own affair, so any free one does; but an agent that restarts keeps those that it finds in
the kernel, so that nothing has to be written again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from sys import byteorder

from kubeproxy.dataplane.nftables.names import (
    FIRST_CLASS,
    FIRST_ENDPOINT,
    MAX_CLASSES,
    VERDICT_MAPS,
    Class,
    Kind,
)
from kubeproxy.kernel.nf_tables.expressions import Decide, VerdictWord
from kubeproxy.kernel.nf_tables.fields import number
from kubeproxy.kernel.nf_tables.types import Element

Lead = tuple[str, VerdictWord, str]
"""Where a code leads: the map of verdicts, `goto` or `jump`, and the chain."""


class Classes(dict[Class, bytes]):
    """Codes, by class: packed numbers. A class that has none gets one."""

    def __init__(self, found: Mapping[bytes, Sequence[Lead]] | None = None) -> None:
        """See the module; ``found``: codes in the kernel and where they lead, whoever chose them."""
        super().__init__()
        # One that stands in two maps, which only somebody else can have done, is nobody's.
        self._found = {
            leads[0]: code for code, leads in (found or {}).items() if len(leads) == 1 and _is_for_classes(code)
        }
        self._occupied = set(found or ())
        self._next = FIRST_CLASS
        self.uses: Counter[Class] = Counter()
        """Of classes that places have, how many."""
        self.standing: set[Class] = set()
        """Classes whose chains are in the kernel."""

    def __missing__(self, which: Class) -> bytes:
        """Return a class's code, a new one. Raises OverflowError when there is none: eight million have one."""
        code = self._found.pop(_lead(which), None) or self._new()
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


def _lead(which: Class) -> Lead:
    """Return where a class's code has to lead."""
    if which.kind in (Kind.CHOOSE, Kind.CHOOSE_LOCAL):
        return which.maps.choosers, VerdictWord.JUMP, which.chain
    own = which.way.value
    return own.short_circuit_picks if which.kind is Kind.PICK else own.picks, VerdictWord.GOTO, which.chain


def lead_of(which: Class, code: bytes) -> tuple[str, Element]:
    """Return the element that leads from a class's code to its chain, behind the map where it belongs."""
    name, word, chain = _lead(which)
    return name, Element(code, Decide(word, chain))


def codes_in(elements: Mapping[str, Mapping[bytes, Element]]) -> dict[bytes, list[Lead]]:
    """Return the codes that the maps of verdicts have, and where they lead; ``elements``: by set and key."""
    found: dict[bytes, list[Lead]] = {}
    for name in VERDICT_MAPS:
        for code, element in elements.get(name, {}).items():
            assert isinstance(element.data, Decide)
            found.setdefault(code, []).append((name, element.data.word, element.data.chain))
    return found
