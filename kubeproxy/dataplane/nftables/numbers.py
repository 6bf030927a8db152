"""Under affinity each endpoint of a Service port has a number: which. Pure.

It is a hash of the endpoint's text; of two that want the same, the second by text has the next that is free. So an
endpoint keeps its number whatever others there are, nearly always, and at a restart too.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256

from kubeproxy.dataplane.nftables.names import ENDPOINT_NUMBERS, FIRST_ENDPOINT
from kubeproxy.kernel.nf_tables.fields import number


def numbers_of(texts: Iterable[str]) -> dict[str, bytes]:
    """Return each endpoint's number; the texts are sorted."""
    return {text: _packed(own) for text, own in _placed(texts).items()}


class Numbers(Mapping[str, bytes]):
    """What `numbers_of` would return, of endpoints of which a few change at a time.

    In a line of such values the newest holds all numbers; an older one holds what it has otherwise than the next,
    and asks that for the rest. Only the newest can be followed, and gone through.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Number sorted texts."""
        self._numbers = _placed(texts)
        self._texts = {own: text for text, own in self._numbers.items()}
        self._next: Numbers | None = None
        self.changed: dict[str, bytes | None] = {}
        """What the next has otherwise: the number here, None for what is not here."""

    def followed(self, gone: Iterable[str], come: Iterable[str]) -> "Numbers":
        """Return the numbers after some endpoints have gone and others come."""
        after = Numbers(())
        after._numbers, after._texts = self._numbers, self._texts
        self._next = after
        for text in gone:
            self._number_anew(self._numbers[text], without=text)
        for text in come:
            self.changed.setdefault(text, None)
            self._number_anew(_digest(text), beside=text)
        self.changed = {text: own for text, own in self.changed.items() if own != after.get(text)}
        return after

    def _number_anew(self, at: int, *, without: str = "", beside: str = "") -> None:
        """Number a row of neighbours anew, the one at a place: between rows nobody's number depends on others."""
        row = self._taken_out(at)
        for each, own in row.items():
            self.changed.setdefault(each, _packed(own))
            del self._numbers[each]
        members = (row.keys() | {beside}) - {without, ""}
        found = _placed(sorted(members))
        self._numbers.update(found)
        self._texts.update((own, each) for each, own in found.items())

    def _taken_out(self, at: int) -> dict[str, int]:
        """Take out of their places the one ``at`` a place and all before and behind it, up to the next gaps."""
        texts, place, row = self._texts, at, dict[str, int]()
        while place in texts and (place - 1) % ENDPOINT_NUMBERS in texts:
            place = (place - 1) % ENDPOINT_NUMBERS
        while (text := texts.pop(place, None)) is not None:
            row[text] = place
            place = (place + 1) % ENDPOINT_NUMBERS
        return row

    def __getitem__(self, text: str) -> bytes:
        if self._next is None:
            return _packed(self._numbers[text])
        if text not in self.changed:
            return self._next[text]
        own = self.changed[text]
        if own is None:
            raise KeyError(text)
        return own

    def __len__(self) -> int:
        assert self._next is None, "not the newest"
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        assert self._next is None, "not the newest"
        return iter(self._numbers)


def _placed(texts: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    behind: dict[int, int] = {}
    for text in texts:
        own = _digest(text)
        if own in behind:
            own = _free_from(own, behind)
        behind[own] = (own + 1) % ENDPOINT_NUMBERS
        found[text] = own
    return found


def _free_from(place: int, behind: dict[int, int]) -> int:
    """Return the first free place from one on; ``behind``: for each that is taken, a later one to go on from.

    Whoever chooses endpoints may have many want the same few numbers: what one has passed the next leaps over.
    """
    passed: list[int] = []
    while (after := behind.get(place)) is not None:
        passed.append(place)
        place = after
    behind.update(dict.fromkeys(passed, place))
    return place


def _packed(own: int) -> bytes:
    return number(FIRST_ENDPOINT + own)


@lru_cache(maxsize=65536)
def _digest(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big") % ENDPOINT_NUMBERS
