"""Whether somebody has changed a table that holds our rules, and if so, whether that hit them.

In every table stands a chain with a rule that does nothing, and it goes with the others when a table is flushed.
"""

import contextlib
from collections.abc import Callable, Container, Iterable
from typing import Protocol

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.jumps import CANARY_RULE
from kubeproxy.kernel.exec import KernelError, Result


class Tables(Protocol):
    """The iptables programs, as far as a look needs them."""

    def fingerprint(self, table: str) -> bytes:
        """Return, cheaply, a value that differs once rules of a table have been removed."""
        ...

    def run(self, *arguments: str, check: bool = True) -> Result:
        """Run one iptables command."""
        ...


UNSEEN_LOOKS = 1
"""A table that we have left so is looked into all the same, after so many looks that passed over it: somebody else
may have changed it between our change and our taking its fingerprint. With looks every 5 s that is found after
10 s at most; while we go on changing a table it is looked into as often."""


class Canary:
    """Looks after some tables. Microseconds while nothing changes, else a look by iptables.

    ``amiss`` is asked of a table that others have changed, with its fingerprint, and returns what of ours was hit,
    "" when nothing shows; without it the canary is looked for. It may raise KernelError, OSError.
    """

    def __init__(
        self, tables: Tables, watched: Iterable[str], amiss: Callable[[str, bytes], str] | None = None
    ) -> None:
        self._tables = tables
        self._watched = tuple(watched)
        self._amiss = amiss or self._flushed
        self._intact: dict[str, bytes] = {}
        """Fingerprints of tables that were found to hold what is ours."""
        self._left: dict[str, bytes] = {}
        """Fingerprints of tables as we have left them; nobody else has changed them while they have these."""
        self._unseen = 0
        """Looks in a row that passed over a table."""

    def is_undisturbed(self) -> bool:
        """Return whether nobody but us has changed the tables since they were last looked at. Raises nothing."""
        try:
            return not self.disturbed()
        except (KernelError, OSError):
            return False

    def disturbed(self, besides: Container[str] = ()) -> dict[str, bytes]:
        """Return the fingerprints of tables that others have changed, and of those ``besides``.

        Raises KernelError, OSError.
        """
        found = {table: self._tables.fingerprint(table) for table in self._watched}
        return {
            table: each
            for table, each in found.items()
            if table in besides or each not in (self._intact.get(table), self._left.get(table))
        }

    def written(self, *, undisturbed: bool = True) -> None:
        """Note that we have just changed tables, or written all: that alone is no reason to look.

        ``undisturbed``: unless others had changed them before. What tables were until then counts no more: who
        makes one what it was takes back what we wrote.
        """
        found: dict[str, bytes] = {}
        with contextlib.suppress(KernelError, OSError):  # then the next look finds out why
            found = {table: self._tables.fingerprint(table) for table in self._watched}
        self._intact = _still(self._intact, found)
        self._left = found if undisturbed else _still(self._left, found)

    def drift(self) -> str:
        """Return what others did to a table of ours, "" when nothing shows. Raises KernelError, OSError."""
        is_thorough = self._unseen >= UNSEEN_LOOKS
        has_passed_over = False
        for table in self._watched:
            fingerprint = self._tables.fingerprint(table)
            if self._intact.get(table) == fingerprint:
                continue
            if self._left.get(table) == fingerprint and not is_thorough:
                has_passed_over = True
                continue
            why = self._amiss(table, fingerprint)
            if why:
                return why
            self._intact[table] = fingerprint
        self._unseen = self._unseen + 1 if has_passed_over else 0
        return ""

    def _flushed(self, table: str, _: bytes) -> str:
        result = self._tables.run("-t", table, "-S", names.CANARY, check=False)
        gone = result.status == 1 or (result.status == 0 and CANARY_RULE not in result.stdout)
        return flushed(table) if gone else ""


def _still(known: dict[str, bytes], found: dict[str, bytes]) -> dict[str, bytes]:
    """Return the fingerprints that were found again."""
    return {table: each for table, each in known.items() if found.get(table) == each}


def flushed(table: str) -> str:
    """Say that a table was."""
    return f"table {table} was flushed by somebody: chain {names.CANARY} is gone or empty"
