"""Whether somebody has flushed a table that holds our rules.

In every table stands a chain with a rule that does nothing, and it goes with the others.
"""

from collections.abc import Iterable
from typing import Protocol

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.jumps import CANARY_RULE
from kubeproxy.kernel.exec import Result


class Tables(Protocol):
    """The iptables programs, as far as a look needs them."""

    def fingerprint(self, table: str) -> bytes:
        """Return, cheaply, a value that differs once rules of a table have been removed."""
        ...

    def run(self, *arguments: str, check: bool = True) -> Result:
        """Run one iptables command."""
        ...


class Canary:
    """Looks after the canaries of some tables. Microseconds while nothing changes, else a look by iptables."""

    def __init__(self, tables: Tables, watched: Iterable[str]) -> None:
        self._tables = tables
        self._watched = tuple(watched)
        self._intact: dict[str, bytes] = {}
        """Fingerprints of tables that were found to hold what is ours."""

    def drift(self) -> str:
        """Return which table was flushed, "" when none was. Raises KernelError, OSError."""
        for table in self._watched:
            fingerprint = self._tables.fingerprint(table)
            if self._intact.get(table) == fingerprint:
                continue
            result = self._tables.run("-t", table, "-S", names.CANARY, check=False)
            if result.status == 1 or (result.status == 0 and CANARY_RULE not in result.stdout):
                return f"table {table} was flushed by somebody: chain {names.CANARY} is gone or empty"
            if result.status == 0:
                self._intact[table] = fingerprint
        return ""
