"""Taking every trace of iptables mode out of the kernel, and nothing of anyone else's.

Works from what iptables-save shows, not from memory: the agent that wrote it may be long gone. A chain of
ours that a foreign rule leads to is emptied and left, since deleting it would mean deleting that rule.
`route_localnet` stays as it is: nobody can tell who else relies on it.
"""

from collections.abc import Iterable
from typing import Protocol

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.sets import Sets
from kubeproxy.dataplane.iptables.tables import CHAINS, JUMPS, Saved, is_ours, parse_save, target
from kubeproxy.model.addresses import Family


class SaveAndRestore(Protocol):
    """As much of the iptables programs as removal needs."""

    def restore(self, text: str | Iterable[str]) -> None:
        """Commit a restore text."""
        ...

    def in_use(self) -> frozenset[str]:
        """Return the tables that somebody uses."""
        ...

    def save(self, table: str) -> str:
        """Return `iptables-save` of one table."""
        ...


def remove(tables: SaveAndRestore, sets: Sets, family: Family) -> None:
    """Remove chains, jumps and sets, of one family and one flavour. Raises KernelError, OSError."""
    # A table that nobody uses, or that this kernel does not even have, must not be made by looking into it.
    present = tables.in_use()
    text = "".join(removal(table, parse_save(table, tables.save(table))) for table in CHAINS if table in present)
    if text:
        tables.restore(text)
    # While the other flavour's rules refer to a set it stays; removing those takes it along.
    for set_names in (names.LOCAL_ENDPOINTS, names.CLUSTER_IPS):
        sets.destroy(set_names[family])


def removal(table: str, saved: Saved) -> str:
    """Return the text that removes what is ours from one table, "" when nothing is. Pure."""
    ours = sorted(chain for chain in saved.chains if is_ours(table, chain))
    if not ours:
        return ""
    jumps = [rule for rule in saved.rules if _is_jump(table, rule)]
    needed = {target(rule) for rule in saved.rules if rule not in jumps}
    lines = [f"-D {rule}\n" for rule in jumps]
    lines += [f":{chain} - [0:0]\n" for chain in ours]
    lines += [f"-X {chain}\n" for chain in ours if chain not in needed]
    return f"*{table}\n{''.join(lines)}COMMIT\n"


def _is_jump(table: str, rule: str) -> bool:
    ends = rule.partition(" ")[0], target(rule)
    return any(each.table == table and (each.chain, each.target) == ends for each in JUMPS)
