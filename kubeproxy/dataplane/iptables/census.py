"""Whether a table holds as many rules of ours as were written: whoever adds or deletes some is found out. Pure.

Legacy tables are read as a whole, so this is for when somebody has changed one. A rule that was put in the place
of another is not seen.
"""

import re
from collections import Counter

from kubeproxy.dataplane.iptables.canary import flushed
from kubeproxy.dataplane.iptables.jumps import CANARY_RULE
from kubeproxy.dataplane.iptables.tables import JUMPS, is_ours, saved_in

_CHAIN_OF_A_RULE = re.compile(r"^-A (\S+)", re.MULTILINE)


def rules_of_ours(table: str, text: str) -> int:
    """Return how many rules an iptables-save of a table has in our chains, and of the jumps to them."""
    chains = Counter(_CHAIN_OF_A_RULE.findall(text))
    saved = saved_in(table, text)
    jumps = sum(jump.table == table and saved.has(jump) for jump in JUMPS)
    return jumps + sum(count for chain, count in chains.items() if is_ours(table, chain))


def amiss(table: str, text: str, written: int | None) -> str:
    """Return what somebody has done to ours in a table, by its iptables-save; "" when nothing shows.

    ``written``: how many rules of ours should be there, None when that is not known.
    """
    if CANARY_RULE not in text:
        return flushed(table)
    found = written if written is None else rules_of_ours(table, text)
    return "" if found == written else f"table {table} has {found} rules of ours instead of {written}"
