"""Which number stands for which class of places, and how many places have it. Pure.

A number is this table's own affair, so any free one does; but an agent that restarts keeps those that it finds in
the kernel, so that nothing has to be written again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from sys import byteorder

from kubeproxy.dataplane.nftables.names import (
    CHOOSERS,
    FIRST_CLASS,
    FIRST_ENDPOINT,
    MAX_CLASSES,
    PICKS,
    SHORT_CIRCUIT_PICKS,
    VERDICT_MAPS,
    Class,
    Kind,
)
from kubeproxy.kernel.nf_tables.expressions import Decide, VerdictWord
from kubeproxy.kernel.nf_tables.fields import number
from kubeproxy.kernel.nf_tables.types import Element

Leads = tuple[tuple[str, VerdictWord, str], ...]
"""Where a code leads: the map of verdicts, `goto` or `jump`, and the chain; in the order of `VERDICT_MAPS`."""


class Classes(dict[Class, bytes]):
    """Codes, by class: packed numbers. A class that has none gets one."""

    def __init__(self, found: Mapping[bytes, Leads] | None = None) -> None:
        """See the module; ``found``: codes in the kernel and where they lead, whoever chose them."""
        super().__init__()
        # One that leads where a class's would not (into the maps of two classes, say) is nobody's.
        self._found = {leads: code for code, leads in (found or {}).items() if _is_for_classes(code)}
        self._occupied = set(found or ())
        self._next = FIRST_CLASS
        self.uses: Counter[Class] = Counter()
        """Of classes that places have, how many."""
        self.standing: set[Class] = set()
        """Classes whose chains are in the kernel."""
        self.chains: Counter[str] = Counter()
        """Those chains, and how many of these classes each has."""

    def __missing__(self, which: Class) -> bytes:
        """Return a class's code, a new one. Raises OverflowError when there is none: eight million have one."""
        code = self._found.pop(_leads(which), None) or self._new()
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

    def count(self, come: Iterable[Class], gone: Iterable[Class] = ()) -> dict[Class, list[str]]:
        """Count uses; return the classes that have to be made now, each with its chains that are not there."""
        self.uses.update(come)
        self.uses.subtract(gone)
        fresh: dict[Class, list[str]] = {}
        for which in dict.fromkeys(come):
            if which not in self.standing:
                self.standing.add(which)
                fresh[which] = [chain for chain in which.chains if chain not in self.chains]
                self.chains.update(which.chains)
        return fresh

    def unused(self) -> list[Class]:
        """Return the classes that stand and that no place has."""
        return [which for which in self.standing if self.uses[which] <= 0]

    def drop(self, which: Class) -> None:
        """Forget a class that is not in the kernel any more; its code is free again."""
        self.standing.discard(which)
        self.chains -= Counter(which.chains)
        self._occupied.discard(self.pop(which))
        del self.uses[which]


def _is_for_classes(code: bytes) -> bool:
    """Return whether a code is none of those that are endpoints' numbers, or other people's priorities."""
    return FIRST_CLASS <= int.from_bytes(code, byteorder) < FIRST_ENDPOINT


def _leads(which: Class) -> Leads:
    """Return where a class's code has to lead."""
    picks = SHORT_CIRCUIT_PICKS if which.kind is Kind.PICK else PICKS
    to_it = (picks, VerdictWord.GOTO, which.chain)
    return (to_it, (CHOOSERS, VerdictWord.JUMP, which.chooser)) if which.seconds else (to_it,)


def leads_of(which: Class, code: bytes) -> Iterator[tuple[str, Element]]:
    """Yield the elements that lead from a class's code to its chains, each with the map where it belongs."""
    for name, word, chain in _leads(which):
        yield name, Element(code, Decide(word, chain))


def codes_in(elements: Mapping[str, Mapping[bytes, Element]]) -> dict[bytes, Leads]:
    """Return the codes that the maps of verdicts have, and where they lead; ``elements``: by set and key."""
    found: dict[bytes, Leads] = {}
    for name in VERDICT_MAPS:
        for code, element in elements.get(name, {}).items():
            assert isinstance(element.data, Decide)
            found[code] = (*found.get(code, ()), (name, element.data.word, element.data.chain))
    return found
