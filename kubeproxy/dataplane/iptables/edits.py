"""What of ours somebody's change of iptables-nft's tables has hit. Pure.

Rules of others, and others' tables, come and go all the time and are nothing to us. Whatever happens in a chain of
ours is, and the end of a rule that leads into one.
"""

from collections.abc import Callable, Collection, Iterable

from kubeproxy.dataplane.iptables.jumps import Jump
from kubeproxy.kernel.notice_messages import TableNotice

MARK = b"KUBE-"
"""Stands in every message that can concern us: all chains of ours begin so."""


class Edits:
    """Judges changes, see the module; ``is_ours`` tells a mode's own chains of a table."""

    def __init__(
        self, tables: Collection[str], is_ours: Callable[[str, str], bool], jumps: Iterable[Jump]
    ) -> None:
        self._tables = frozenset(tables)
        self._is_ours = is_ours
        self._targets: dict[str, set[bytes]] = {}
        """By table, where our jumps lead, as it stands in a message about a rule."""
        for jump in jumps:
            self._targets.setdefault(jump.table, set()).add(jump.target.encode() + b"\0")

    def __call__(self, change: TableNotice) -> str:
        """Return what was done to ours, as the beginning of a sentence; "" when nothing was."""
        table, chain = change.table, change.name
        if table not in self._tables:
            return ""
        if change.what == "table":
            return f"table {table} was deleted" if change.is_gone else ""
        if change.what == "chain":
            return f"chain {chain} of table {table} was deleted" if self._is_gone(change) else ""
        if change.what != "rule":
            return ""
        if self._is_ours(table, chain):
            return f"chain {chain} of table {table} was changed"
        if change.is_gone and any(target in change.body for target in self._targets.get(table, ())):
            return f"a rule of chain {chain} of table {table} that leads to Services was deleted"
        return ""

    def _is_gone(self, change: TableNotice) -> bool:
        return change.is_gone and self._is_ours(change.table, change.name)
