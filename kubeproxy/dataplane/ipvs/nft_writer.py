"""The fixed rules of ipvs mode brought into a table of nftables, watched, and removed. Blocking."""

import errno
from collections import Counter
from collections.abc import Iterator

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.dataplane.ipvs.nft_rules import CHAINS, NftRules, steps_of
from kubeproxy.dataplane.ipvs.rule_writer import TCP_BE_LIBERAL
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.fields import SPOKEN
from kubeproxy.kernel.nf_tables.types import AddRule, AddTable, Chain, Change, DeleteChain, FlushChain
from kubeproxy.kernel.nft_sets import COMMENT
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.node import NodeState

_GONE = (errno.ENOENT, errno.EOPNOTSUPP)
"""How the kernel says that there is no such chain, or no nf_tables at all."""


class NftRuleWriter:
    """See `Rulebook`."""

    def __init__(self, table: NfTable, sysctls: Sysctls) -> None:
        """See the class; ``table`` is called `NFT_TABLE`."""
        self._table = table
        self._sysctls = sysctls
        self._intact: int | None = None
        """The kernel's last transaction when the rules were found to stand."""
        self._written: dict[str, list[int] | None] = {}
        """The numbers of each chain's rules; one that is replaced gets another."""
        self._written_in = 0
        """The number of the table that they are in: in another the same numbers may be other rules'."""

    def write(self, node: NodeState) -> tuple[RuleCount, ...]:
        """See `Rulebook.write`: one transaction, or two where somebody has put the table to sleep."""
        if self._table.is_dormant():
            # The kernel takes no base chain in a transaction that wakes a table.
            self._table.commit([AddTable(COMMENT)])
        rules = NftRules(node, drop_invalid=self._sysctls.read(TCP_BE_LIBERAL) in ("", "0"))
        steps = [AddTable(COMMENT), *self._making_room(), *steps_of(rules)]
        self._table.commit(steps)
        self._intact = None
        self._written_in = self._table.handle()
        counts = Counter(step.rule.chain for step in steps if isinstance(step, AddRule))
        self._written = {chain: self._numbers_of_all(chain, counts[chain]) for chain in CHAINS}
        return (RuleCount(table=NFT_TABLE, standing=counts.total(), written=counts.total()),)

    def drift(self) -> str:
        """See `Rulebook.drift`: microseconds while nobody changes any rules, else the kernel lists ours."""
        generation = self._table.generation()
        if generation == self._intact:
            return ""
        where = f"{SPOKEN[self._table.family]} {NFT_TABLE}"
        if self._table.is_dormant():
            return f"nftables table {where} was put to sleep by somebody"
        if self._table.handle() not in (self._written_in, 0):  # of one that is gone the chains tell
            return f"nftables table {where} was deleted and made anew by somebody"
        for chain, written in self._written.items():
            if self._rules_of(chain) != written:
                return f"nftables chain {where} {chain} was changed by somebody"
        self._intact = generation
        return ""

    def glance(self) -> str:
        """See `Rulebook.glance`: the kernel tells of everything itself."""
        return ""

    def remove(self) -> list[str]:
        """See `Rulebook.remove`; the table goes with its last set."""
        self._intact, self._written = None, {}
        complaints = []
        for chain in CHAINS:
            try:
                self._table.commit([FlushChain(chain), DeleteChain(chain)])
            except Refused as error:
                if error.code not in _GONE:
                    complaints.append(f"nftables chain {chain} stays: {error}")
        return complaints

    def _making_room(self) -> Iterator[Change]:
        """Yield what deletes chains with names of ours that see other packets, or see them at another time.

        The kernel changes nothing of that. They are somebody's, or another version's of this program.
        """
        for name, chain in self._table.chains().items():
            if name in CHAINS and _place(chain) != _place(CHAINS[name]):
                yield FlushChain(name)
                yield DeleteChain(name)

    def _numbers_of_all(self, chain: str, count: int) -> list[int] | None:
        """Return the numbers of a chain's rules, None when somebody has come between: then a look says so."""
        found = self._rules_of(chain)
        return found if len(found) == count else None

    def _rules_of(self, chain: str) -> list[int]:
        """Return the numbers of a chain's rules."""
        return [handle for handle, _ in self._table.numbered_rules(chain)]


def _place(chain: Chain) -> tuple[object, ...]:
    """Return what of a chain stays as it was made."""
    base = chain.base
    return (base.kind, base.hook, base.priority) if base else ()
