"""A kernel that takes everything and does nothing: what a backend over it needs is the backend's own time.

Everything lazy that it is handed is run through, so that rendering happens.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.kernel.exec import Result
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.ipvs_overview import Overview
from kubeproxy.kernel.ipvs_types import Command, Counted, Found, Server, ServerKey, Timeouts
from kubeproxy.kernel.nf_tables.base import NAME
from kubeproxy.kernel.nf_tables.batch import datagram, encode, transactions
from kubeproxy.kernel.nf_tables.types import Chain, Change, Element, Rule, SetSpec
from kubeproxy.kernel.sets import SetChange
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import NodeState

NullSysctls = FakeSysctls


class NullTables:
    """See `dataplane.iptables.backend.Tables`: tables with the built-in chains only."""

    def restore(self, text: str | Iterable[str]) -> None:
        deque(text, maxlen=0)

    def save(self, table: str) -> str:
        return f"*{table}\nCOMMIT\n"

    def in_use(self) -> frozenset[str]:
        return frozenset()

    def has_match(self, match: str) -> bool:
        return True

    def fingerprint(self, table: str) -> bytes:
        return b""

    def run(self, *arguments: str, check: bool = True) -> Result:
        return Result(status=0, stdout="", stderr="")


class NullSets:
    """See `kernel.sets.SizedSets`."""

    def create(self, name: str, kind: SetType) -> bool:
        return True

    def members(self, name: str) -> set[Member]:
        return set()

    def apply(self, changes: Sequence[SetChange]) -> None:
        pass

    def add(self, name: str, entries: Sequence[Member]) -> None:
        pass

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        pass

    def named(self, prefix: str) -> set[str]:
        return set()

    def sizes(self, prefix: str) -> dict[str, int]:
        return {}

    def size(self, name: str) -> int | None:
        return 0

    def destroy(self, name: str) -> bool:
        return True


class NullTable:
    """See `kernel.nf_tables.base.NfTable`: what is committed is encoded, and forgotten."""

    def __init__(self, family: Family) -> None:
        self.family = family

    def commit(self, changes: Iterable[Change], after: int | None = None) -> int:
        for parts in transactions(encode(self.family, NAME, list(changes)), 1 << 30):
            datagram(parts, 1, after)
        return 1

    def exists(self) -> bool:
        return False

    def chains(self) -> dict[str, Chain]:
        return {}

    def rules(self, chain: str) -> list[Rule]:
        return []

    def numbered_rules(self, chain: str) -> list[tuple[int, Rule]]:
        return []

    def sets(self) -> dict[str, SetSpec]:
        return {}

    def elements(self, name: str) -> Iterator[Element]:
        return iter(())

    def generation(self) -> int:
        return 1


class NullNfacct:
    """See `dataplane.iptables.counters.Nfacct`."""

    def ensure(self, name: str) -> None:
        pass


class NullRulebook:
    """See `dataplane.ipvs.rulebook.Rulebook`."""

    def write(self, node: NodeState) -> tuple[RuleCount, ...]:
        return ()

    def drift(self) -> str:
        return ""

    def remove(self) -> list[str]:
        return []


class NullVirtualServers:
    """See `kernel.virtual_servers.VirtualServers`."""

    def available(self) -> bool:
        return True

    def has_scheduler(self, name: str) -> bool:
        return True

    def servers(self, family: Family) -> dict[ServerKey, Server]:
        return {}

    def count(self, family: Family) -> int | None:
        return None

    def overview(self, family: Family) -> Overview | None:
        return None

    def counted_servers(self, family: Family) -> dict[ServerKey, Counted]:
        return {}

    def destinations(self, key: ServerKey) -> list[Found]:
        return []

    def run(self, commands: Sequence[Command]) -> list[int]:
        return [0] * len(commands)

    def timeouts(self) -> Timeouts:
        return Timeouts(900, 120, 300)

    def set_timeouts(self, *, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        pass


class NullAddresses:
    """See `kernel.virtual_addresses.Addresses`."""

    def ensure_device(self) -> int:
        return 1

    def device(self) -> int | None:
        return 1

    def held(self) -> dict[str, str]:
        return {}

    def add(self, addresses: Collection[str], source: str = "") -> None:
        pass

    def set_source(self, addresses: Collection[str], source: str) -> None:
        pass

    def remove(self, addresses: Collection[str]) -> None:
        pass

    def foreign_addresses(self) -> frozenset[str]:
        return frozenset()

    def remove_addresses(self, addresses: Collection[str]) -> None:
        pass

    def remove_device(self) -> bool:
        return True
