"""The few fixed rules of ipvs mode brought into the tables, watched, and removed. Blocking; the calling thread's.

They are written by full syncs only: a Service's change is one of sets and virtual servers.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.dataplane.iptables.canary import Canary
from kubeproxy.dataplane.iptables.counters import Nfacct, usable
from kubeproxy.dataplane.iptables.jumps import Saved, missing_jumps, otherwise, transaction
from kubeproxy.dataplane.iptables.missed import Missed
from kubeproxy.dataplane.ipvs.openings import Openings
from kubeproxy.dataplane.ipvs.rules import CHAINS, JUMPS, Rules, saved_in
from kubeproxy.dataplane.leftovers.removal import remove_chains
from kubeproxy.dataplane.leftovers.upstream import IPVS_OWNED
from kubeproxy.kernel.exec import Result
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.node import NodeState

TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"

ORDER = ("mangle", "filter", "nat")
"""The nat table comes last: on a node that iptables mode has served, it is what hands packets over to IPVS."""


class Tables(Protocol):
    """The iptables programs (`kernel.iptables.Iptables`), or a model of them (`iptables.fake.FakeTables`)."""

    def restore(self, text: str | Iterable[str]) -> None:
        """Commit a restore text. Raises RestoreFailed."""
        ...

    def save(self, table: str) -> str:
        """Return `iptables-save` of one table."""
        ...

    def save_all(self) -> dict[str, str]:
        """Return `iptables-save` of every table that somebody uses."""
        ...

    def in_use(self) -> frozenset[str]:
        """Return the tables that somebody uses."""
        ...

    def has_match(self, match: str) -> bool:
        """Return whether the kernel takes rules with `-m MATCH`."""
        ...

    def fingerprint(self, table: str) -> bytes:
        """Return, cheaply, a value that differs once rules of a table have been removed."""
        ...

    def run(self, *arguments: str, check: bool = True) -> Result:
        """Run one iptables command."""
        ...


class RuleWriter:
    """See `Rulebook`; without ``nfacct`` no packets are counted."""

    def __init__(
        self, tables: Tables, sysctls: Sysctls, nfacct: Nfacct | None, openings: Openings | None = None
    ) -> None:
        """See the class; ``openings`` are of who is told of what others do to the rules, None where nobody is."""
        self._is_told = openings is not None
        self._missed = Missed(openings)
        self._written: tuple[RuleCount, ...] = ()
        self._tables = tables
        self._sysctls = sysctls
        self._nfacct = nfacct
        self._canary = Canary(tables, CHAINS)

    def write(self, node: NodeState) -> tuple[RuleCount, ...]:
        """Write all rules, and tell how many there are in each table."""
        saved = self._saved()
        drop_invalid = self._sysctls.read(TCP_BE_LIBERAL) in ("", "0")
        counters = usable(self._tables, self._nfacct) if self._nfacct else frozenset[str]()
        rules = Rules(node, drop_invalid=drop_invalid, counters=counters)
        texts = {table: rules.text(table) for table in ORDER}
        parts = (
            transaction(table, text + missing_jumps(JUMPS, table, saved[table])) for table, text in texts.items()
        )
        self._tables.restore("".join(parts))
        self._written = tuple(
            RuleCount(table=table, standing=count, written=count)
            for table, text in texts.items()
            for count in [text.count("\n-A ")]
        )
        return self._written

    def drift(self) -> str:
        """Return what somebody did to the rules, "" when they stand."""
        return self._missed.look(self._counted()) or self._canary.drift()

    def _counted(self) -> Iterator[str]:
        """Yield of each table what a count shows that somebody has done."""
        saved = self._saved()
        for written in self._written:
            table = written.table
            count = sum(saved[table].sizes.get(chain, 0) for chain in CHAINS[table])
            yield otherwise(JUMPS, table, saved[table], count, written.standing)

    def _saved(self) -> dict[str, Saved]:
        found = self._tables.save_all() if self._tables.in_use() else {}
        return {table: saved_in(table, found.get(table, "")) for table in ORDER}

    def glance(self) -> str:
        """See `Rulebook.glance`: legacy tables tell of nothing but their size."""
        return "" if self._is_told or self._canary.is_undisturbed() else "tables were changed"

    def remove(self) -> list[str]:
        """Remove the rules; return complaints about what is left."""
        return list(remove_chains(self._tables, IPVS_OWNED))
