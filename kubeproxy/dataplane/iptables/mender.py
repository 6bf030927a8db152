"""What others have changed in the tables, put right chain by chain by one restore.

With iptables-nft the kernel tells which chains somebody has changed. Legacy tells that a table is another, and a
look reads and counts it; the repair uses what the look has read, unless the table has changed again since. As a
count does not show all, a full sync follows there, when nobody waits for it any more.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from kubeproxy.dataplane.iptables.canary import Canary
from kubeproxy.dataplane.iptables.census import Census, amiss, census
from kubeproxy.dataplane.iptables.jumps import transaction
from kubeproxy.dataplane.iptables.repairs import Standing, by_count, by_name
from kubeproxy.dataplane.iptables.tables import JUMPS, saved_in
from kubeproxy.dataplane.iptables.told import Chains, Told
from kubeproxy.kernel.exec import KernelError, Result


class Tables(Protocol):
    """The iptables programs, as far as a repair needs them."""

    def restore(self, text: str) -> None:
        """Commit a restore text. Raises RestoreFailed."""
        ...

    def save(self, table: str) -> str:
        """Return `iptables-save` of one table."""
        ...

    def fingerprint(self, table: str) -> bytes:
        """Return, cheaply, a value that differs once rules of a table have been removed."""
        ...

    def run(self, *arguments: str, check: bool = True) -> Result:
        """Run one iptables command."""
        ...


class _Read(NamedTuple):
    fingerprint: bytes
    """From before it was read."""
    found: Census


class Mender:
    """Repairs tables; methods raise KernelError and OSError, after which nobody knows what stands.

    ``told``: what the kernel tells of others' changes; without it looks find out.
    """

    def __init__(self, tables: Tables, told: Told | None) -> None:
        self._tables = tables
        self._told = told
        self._amiss: dict[str, _Read] = {}
        """Tables that the last looks have found amiss."""

    def look(self, table: str, fingerprint: bytes, written: int | None) -> str:
        """Read a table; return what others did to ours, "" when nothing shows. See `census.amiss`."""
        read = self._read(table, fingerprint)
        why = amiss(table, read.found, written)
        if why:
            self._amiss[table] = read
        return why

    def forget(self) -> None:
        """Forget what was found and told, as everything is written anew."""
        self._amiss.clear()
        if self._told is not None:
            self._told.take()

    def mend(self, canary: Canary, standing: Standing) -> bool:
        """Put right what was found or told; return whether that could be done."""
        if self._told is None:
            return self._mend_found(canary, standing)
        changed = self._told.take()
        return changed is not None and self._mend_told(changed, standing)

    def _mend_found(self, canary: Canary, standing: Standing) -> bool:
        """Put right what looks have found amiss, and tables that have changed since."""
        amiss, self._amiss = self._amiss, {}
        if not amiss:
            return False
        read = {table: self._still(table, now, amiss) for table, now in canary.disturbed(amiss).items()}
        texts: list[str] = []
        for table, each in read.items():
            lines = by_count(table, each.found, standing)
            if lines is None or (not lines and amiss.get(table) is each):
                return False  # it is flushed, or not understood
            texts.append(transaction(table, lines))
        self._restore(texts)
        return True

    def _mend_told(self, changed: Chains, standing: Standing) -> bool:
        """Put these chains right; who changes one once more meanwhile is told of again."""
        texts: list[str] = []
        for table, chains in changed.items():
            built_in = sorted({jump.chain for jump in JUMPS if jump.table == table} & chains)
            shown = "\n".join([self._shown(table, chain) for chain in built_in])
            lines = by_name(table, chains, saved_in(table, shown), standing)
            if lines is None:
                return False
            texts.append(transaction(table, lines))
        self._restore(texts)
        return True

    def _shown(self, table: str, chain: str) -> str:
        """Return the rules of one chain; none when it is not there."""
        result = self._tables.run("-t", table, "-S", chain, check=False)
        if result.status not in (0, 1):
            raise KernelError(f"chain {chain} of table {table} cannot be read: {result.stderr.strip()}")
        return result.stdout

    def _restore(self, texts: list[str]) -> None:
        if text := "".join(texts):
            self._tables.restore(text)

    def _still(self, table: str, fingerprint: bytes, amiss: Mapping[str, _Read]) -> _Read:
        """Return what a table holds now, without a reading if it is what a look has read."""
        known = amiss.get(table)
        if known is not None and known.fingerprint == fingerprint:
            return known
        return self._read(table, fingerprint)

    def _read(self, table: str, fingerprint: bytes) -> _Read:
        return _Read(fingerprint, census(table, self._tables.save(table)))
