"""The real kernel, of one network namespace, for an agent that lives through a history (see `agent_bed.py`)."""

import subprocess
from collections.abc import Callable
from typing import Protocol, TypeVar

from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.kernel.conntrack_messages import MSG_DELETE, SUBSYSTEM
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.netlink import NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, netfilter_head
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from tests.property.agent_bed import FOREIGN, TABLES, Spoiled
from tests.property.saved_tables import Chains, parse

T = TypeVar("T")


class Run(Protocol):
    """Calls a function on a thread of the namespace."""

    def __call__(self, function: Callable[[], T]) -> T:
        """Return what it returns."""
        ...


class RealKernel:
    """See `agent_bed.Kernel`; everything happens where ``run`` calls it."""

    def __init__(self, run: Run, flavour: Flavour) -> None:
        self.run = run
        self._flavour = flavour
        self._tables = {family: Iptables(SystemExec(), family, flavour) for family in Family}
        self._spoiled = {family: Spoiled(tables) for family, tables in self._tables.items()}
        self.reset()

    def reset(self) -> None:
        """Begin anew: with empty tables, and the foreign rule."""
        for family in Family:
            for table in TABLES:
                self.flush(family, table)

    def backend(self, family: Family) -> IptablesBackend:
        """See `Kernel.backend`."""
        return IptablesBackend(self._spoiled[family], Ipset(family), ProcSysctls(), family, Nfacct())

    def spoil(self, family: Family, at_commit: int) -> None:
        """See `Kernel.spoil`."""
        self._spoiled[family].at_commit = at_commit

    def flush(self, family: Family, table: str) -> None:
        """See `Kernel.flush`."""
        tables = self._tables[family]

        def work() -> None:
            tables.run("-t", table, "-F")
            tables.run("-t", table, "-X")
            if table == "nat":
                chain, rule = FOREIGN[family]
                tables.run("-t", "nat", "-A", chain, *rule.split())

        self.run(work)

    def saved(self, family: Family) -> dict[str, Chains]:
        """See `Kernel.saved`."""
        return {table: parse(self._tables[family].save(table)) for table in TABLES}

    def sets(self, family: Family) -> dict[str, set[object]]:
        """See `Kernel.sets`; read by ipset's own program."""
        shown = subprocess.run(["ipset", "save"], check=True, capture_output=True, text=True).stdout
        found: dict[str, set[object]] = {}
        for line in shown.splitlines():
            verb, name, rest = line.split(" ", 2)
            if verb == "create" and ("inet6" in rest) is (family is Family.V6):
                found[name] = set()
            elif verb == "add" and name in found:
                found[name].add(rest)
        return found

    def forget_flows(self) -> None:
        """Let no packet of one history be taken for a part of another's connection."""
        self.run(forget_flows)


def forget_flows() -> None:
    """Forget every connection that is tracked in the calling thread's namespace."""
    for family in Family:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            netlink.request(SUBSYSTEM | MSG_DELETE, 0, netfilter_head(family), "conntrack")
