"""Whose fault a refusal is: the Service ports that asked for what the kernel will not have."""

from collections import Counter
from collections.abc import Callable, Mapping

from kubeproxy.dataplane.ipvs.books import Books
from kubeproxy.dataplane.ipvs.kernel_state import CommandsRefused
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.ipvs.part import Part
from kubeproxy.dataplane.ipvs.refusals import Judgement
from kubeproxy.dataplane.ipvs.work import entries_of
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.virtual_addresses import AddressesRefused
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName

Refused = CommandsRefused | EntriesRefused | AddressesRefused
Needs = Mapping[Set, int]


def culprits(refused: Refused, books: Books, family: Family) -> dict[ServicePortName, Needs]:
    """Return who asked for what was refused, each with how many entries it has in sets that are full.

    Nobody, when the kernel might take it another time. Cost: a look at every Part.
    """
    if isinstance(refused, CommandsRefused):
        return {owner: {} for owner in _owners(books, refused.judgement)}
    if isinstance(refused, AddressesRefused):
        addresses = frozenset(refused.refused)
        return {name: {} for name in _asking(books, lambda part: not addresses.isdisjoint(part.addresses))}
    return _askers_of_entries(refused, books, family)


def full_sets(refused: Refused, family: Family) -> dict[Set, int]:
    """Return the sets that had no room, with their sizes."""
    sizes = refused.full if isinstance(refused, EntriesRefused) else {}
    return {which: sizes[name] for which in Set for name in [set_name(family, which)] if name in sizes}


def _askers_of_entries(refused: EntriesRefused, books: Books, family: Family) -> dict[ServicePortName, Needs]:
    by_name = {set_name(family, which): which for which in Set}
    entries = {(by_name[name], member) for name, member in refused.refused}
    full = full_sets(refused, family)
    return {
        owner: Counter(which for which, _ in entries_of(books.unions.parts[owner]) if which in full)
        for owner in _asking(books, lambda part: not entries.isdisjoint(entries_of(part)))
    }


def _owners(books: Books, judgement: Judgement) -> list[ServicePortName]:
    """Return the ports whose virtual servers the kernel will never have."""
    if judgement.momentary:
        return []
    owned = (books.unions.virtuals.get(key) for key, _ in judgement.culprits)
    return list(dict.fromkeys(each.owner for each in owned if each is not None))


def _asking(books: Books, is_it: Callable[[Part], bool]) -> list[ServicePortName]:
    return [owner for owner, part in books.unions.parts.items() if is_it(part)]
