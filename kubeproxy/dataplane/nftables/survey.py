"""What the kernel holds of the table, and the way from there to what is wanted. Pure.

A table that is not as ours would be (kube-proxy's own has the same name; somebody may have put something into it)
is replaced as a whole, in the transaction that fills the new one: no connection meets a moment without rules.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

from kubeproxy.dataplane.nftables import names
from kubeproxy.dataplane.nftables.classes import Lead, codes_in
from kubeproxy.dataplane.nftables.layout import CHAINS, Layout
from kubeproxy.dataplane.nftables.names import Kind, Way
from kubeproxy.dataplane.nftables.ranges import length_of
from kubeproxy.dataplane.nftables.sets import SPECS, spec_named
from kubeproxy.dataplane.nftables.sheet import Sheet
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Chain,
    Change,
    DeleteElements,
    DeleteTable,
    Element,
    Field,
    FlushChain,
    SetSpec,
)
from kubeproxy.model.objects import Record

_PREFIXES = "|".join(way.value.prefix for way in Way)
_KINDS = "|".join(kind for kind in Kind if kind is not Kind.UNTRANSLATED)
_CLASS = re.compile(rf"(?:{_PREFIXES})(?:{_KINDS})-(?:(?:\d+-)?sticky-)?\d+|{Kind.UNTRANSLATED}")
"""Chains of classes; earlier versions had one for each pair of a number and a time."""
_EARLIER = frozenset(("short-circuit", "nodeport-short-circuit"))
"""Other chains of theirs: after a full sync nothing leads there, and they go like those of unneeded classes."""


class Survey(Record, frozen=True, kw_only=True):
    """The table as it is."""

    stands: bool
    """Whether there is one."""
    strange: str = ""
    """Why it has to be replaced."""
    dormant: bool = False
    """Whether somebody has put it to sleep."""
    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    elements: Mapping[str, Mapping[bytes, Element]] = {}
    """By set and key; none of dynamic sets."""

    def codes(self) -> dict[bytes, list[Lead]]:
        """Return where the codes of classes lead."""
        return codes_in(self.elements)

    def lengths(self) -> set[int]:
        """Return the prefix lengths for which there are sets of source ranges."""
        return {length for length in map(length_of, self.sets) if length is not None}

    def class_chains(self) -> frozenset[str]:
        """Return the chains of classes."""
        return self.chains - CHAINS.keys()


def strange(chains: Mapping[str, Chain], sets: Mapping[str, SetSpec]) -> str:
    """Return what is there that is none of ours, "" when nothing is."""
    for name, found in sets.items():
        spec = spec_named(name)
        if spec is None or _shape(spec) != _shape(found):
            return f"set {name} is not ours"
    for name, chain in chains.items():
        is_ours = name in CHAINS or name in _EARLIER or _CLASS.fullmatch(name)
        if not is_ours or chain.base != (CHAINS[name].base if name in CHAINS else None):
            return f"chain {name} is not ours"
    return ""


def _shape(spec: SetSpec) -> SetSpec:
    """Return what makes a set another one: the kernel tells neither comments nor whose an address is."""

    def plain(fields: tuple[Field, ...]) -> tuple[Field, ...]:
        return tuple(Field.ADDRESS if each is Field.SOURCE else each for each in fields)

    return msgspec.structs.replace(spec, comment="", key=plain(spec.key))


class Strangers(Record, frozen=True):
    """What is in the table beside what is ours, by names that we never give."""

    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    """Of both, none that is part of a rule, and goes with it."""


class Correction:
    """The difference between what a survey found and what is asked for, piece by piece."""

    def __init__(self, found: Survey) -> None:
        self._left = {name: dict(elements) for name, elements in found.elements.items()}

    def towards(self, sheet: Sheet) -> Iterator[Change]:
        """Yield the steps that bring in what a sheet asks for."""
        for name, come in sheet.elements.items():
            left = self._left.get(name)
            stale: list[Element] = []
            if left:
                found = [left.pop(each.key, None) for each in come]
                stale = [was for each, was in zip(come, found, strict=True) if was is not None and was != each]
                come = [each for each, was in zip(come, found, strict=True) if was != each]
            if stale:
                yield DeleteElements(name, stale)
            if come:
                yield AddElements(name, come)

    def rest(self) -> Iterator[Change]:
        """Yield the steps that take out what no sheet asked for."""
        for name, left in self._left.items():
            if left:
                yield DeleteElements(name, list(left.values()))


def skeleton(found: Survey, layout: Layout) -> Iterator[Change]:
    """Yield the steps that make the table with all that is always there, whatever there is."""
    if found.strange:
        yield DeleteTable()
    yield AddTable(names.COMMENT)
    for name, spec in SPECS.items():
        if name not in found.sets:
            yield AddSet(spec)
    for name, chain in CHAINS.items():
        yield FlushChain(name) if name in found.chains else AddChain(chain)
    for rule in layout.rules():
        yield AddRule(rule)
