"""Reads what the kernel holds of the table."""

import errno
from collections.abc import Callable, Collection
from typing import TypeVar

from kubeproxy.dataplane.nftables.layout import CHAINS
from kubeproxy.dataplane.nftables.sets import DYNAMIC, spec_named
from kubeproxy.dataplane.nftables.survey import Strangers, Survey, strange
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.types import Element, Rule

_T = TypeVar("_T")

PATIENCE = 8
"""How often a dump is begun anew because others have changed something meanwhile."""


def survey_beside(table: NfTable) -> tuple[Survey, Strangers]:
    """Read the table without what strangers have put beside ours, and return what that is.

    Raises the same as `survey`, which takes such a table for somebody else's.
    """
    chains, sets = _patiently(table.chains), _patiently(table.sets)
    other_chains = {name for name, chain in chains.items() if name not in CHAINS and strange({name: chain}, {})}
    other_sets = {name for name in sets if spec_named(name) is None}
    strangers = Strangers(
        frozenset(name for name in other_chains if not chains[name].bound),
        frozenset(name for name in other_sets if not sets[name].anonymous),
    )
    found = survey(table, without=other_chains | other_sets)
    return found, Strangers() if found.strange or not found.stands else strangers


def survey(table: NfTable, *, deep: bool = True, without: Collection[str] = ()) -> Survey:
    """Read the table; ``deep``: with its elements; ``without``: chains and sets to pass over.

    Raises KernelError, OSError.
    """
    if not table.exists():
        return Survey(stands=False)
    try:
        return _looked_into(table, deep, without)
    except Refused as refused:
        if refused.code != errno.EBADMSG:
            raise
        # Somebody put in what we never write (a verdict `continue`): what is not read cannot be corrected.
        return Survey(stands=True, strange=f"what is in it cannot be read ({refused})")


def survey_to_correct(table: NfTable) -> Survey:
    """Do the same for who writes the table: one that others leave no time to read is to be replaced, in one go."""
    try:
        return survey(table)
    except DumpInterrupted:
        return Survey(stands=True, strange="others leave no time to read it")


def _looked_into(table: NfTable, deep: bool, without: Collection[str]) -> Survey:
    chains = {name: chain for name, chain in _patiently(table.chains).items() if name not in without}
    sets = {name: spec for name, spec in _patiently(table.sets).items() if name not in without}
    dormant = table.is_dormant()
    why = strange(chains, sets)
    if not why and dormant and not CHAINS.keys() <= chains.keys():
        # The kernel wakes no table, and adds no base chain, in a transaction that does the other too (EINVAL).
        why = "it sleeps, and lacks chains"
    if why:
        return Survey(stands=True, strange=why)
    return Survey(
        stands=True,
        dormant=dormant,
        chains=frozenset(chains),
        sets=frozenset(sets),
        elements={name: read(table, name) for name in sets if name not in DYNAMIC} if deep else {},
    )


def read(table: NfTable, name: str) -> dict[bytes, Element]:
    """Return the elements of a set, by key. Raises DumpInterrupted when others leave no time for that."""
    return _patiently(lambda: {each.key: each for each in table.elements(name)})


def read_rules(table: NfTable, chain: str) -> list[Rule]:
    """Return the rules of a chain; raises the same."""
    return _patiently(lambda: table.rules(chain))


def _patiently(look: Callable[[], _T]) -> _T:
    for _ in range(PATIENCE - 1):
        try:
            return look()
        except DumpInterrupted:
            continue
    return look()
