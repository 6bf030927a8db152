"""The table of an ipvs mode without iptables, under another mode: it only guards any more. Blocking.

It stays while connections through virtual servers end. Its sets tell whose these are, and what is local on their
account. What it says of new connections goes first: that a destination is settled, before anybody else's rules, so
that what serves now would get none, and virtual servers wait for their last connection for ever; and what to drop
by policies and source ranges that may have changed since.
"""

import errno

from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.ipvs.nft_rules import CHAINS, guard
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.types import AddRule, FlushChain


def is_there(table: NfTable) -> bool:
    """Return whether there is such a table; none is on a kernel without nf_tables. Raises Refused, OSError."""
    try:
        return table.exists()
    except Refused as error:
        if error.code != errno.EOPNOTSUPP:
            raise
        return False


def hand_over(table: NfTable, *, guarding: bool) -> None:
    """Empty its chains in one transaction; if ``guarding``, but for what refuses virtual addresses' other ports.

    Nothing is done where that stands, or there is no such table. Raises Refused, OSError.
    """
    if not is_there(table):
        return
    chains = [name for name in table.chains() if name in CHAINS]
    addresses = set_name(table.family, Set.ADDRESSES)
    rules = list(guard(table.family)) if guarding and addresses in table.sets() else []
    wanted = {chain: [rule for rule in rules if rule.chain == chain] for chain in chains}
    if any(table.rules(chain) != wanted[chain] for chain in chains):
        added = [AddRule(rule) for chain in chains for rule in wanted[chain]]
        table.commit([*map(FlushChain, chains), *added])
