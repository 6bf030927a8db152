"""The real kernel, of one network namespace, for an agent in ipvs mode that lives through a history."""

import errno
import subprocess
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.dataplane.ipvs.names import DEVICE, Set, set_name
from kubeproxy.dataplane.ipvs.rule_writer import RuleWriter
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.ipvs_types import Command, Server, Verb, singly
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sets import SetChange
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.virtual_addresses import VirtualAddresses
from kubeproxy.model.addresses import Family
from tests.netns.real_kernel import RealKernel, Run
from tests.property.ipvs_bed import IPVS, OTHERS, check_ownership, described, make_others

T = TypeVar("T")


class MoodySets(Ipset):
    """Sets of which the next change may fail."""

    fails_next = False

    def apply(self, changes: Sequence[SetChange]) -> None:
        if self.fails_next:
            self.fails_next = False
            raise KernelError("no buffer space")
        super().apply(changes)


class MoodyServers(Ipvs):
    """Virtual servers of which the second of the next commands may be refused, the others after it carried out."""

    fails_next = False

    def run(self, commands: Sequence[Command]) -> list[int]:
        single = list(singly(commands))  # a new server's destinations have codes of their own
        if not self.fails_next or len(single) < 2:
            return super().run(commands)
        self.fails_next = False
        codes = super().run([single[0], *single[2:]])
        return [codes[0], errno.ENOBUFS, *codes[1:]]


class RealIpvsKernel(RealKernel):
    """See `ipvs_bed.IpvsKernel`; everything happens where ``run`` calls it."""

    def __init__(self, run: Run) -> None:
        self.masquerade = 0
        self._sets = {family: MoodySets(family) for family in Family}
        self._servers = MoodyServers()
        self._addresses = {family: VirtualAddresses(family) for family in Family}
        super().__init__(run, Flavour.LEGACY)

    def reset(self) -> None:
        """Begin anew: with nothing but what is somebody else's."""
        super().reset()
        self.run(self._empty)

    def _empty(self) -> None:
        self._servers.flush()
        subprocess.run(["ip", "link", "delete", DEVICE], capture_output=True, check=False)
        subprocess.run(["ipset", "destroy"], check=True)
        make_others(self._servers)

    def backend(self, family: Family) -> IpvsBackend:  # type: ignore[override]
        """See `agent_bed.Kernel.backend`."""
        return IpvsBackend(
            RuleWriter(self._spoiled[family], ProcSysctls(), Nfacct()),
            self._sets[family],
            self._servers,
            self._addresses[family],
            ProcSysctls(),
            family,
            IPVS,
            partial(local_addresses, family),
        )

    def spoil(self, family: Family, at_commit: int) -> None:
        """See `ipvs_bed.FakeIpvsKernel.spoil`."""
        super().spoil(family, 1 if at_commit == 1 else 0)
        self._sets[family].fails_next = at_commit == 2
        self._servers.fails_next = at_commit == 3

    def flush(self, family: Family, table: str) -> None:
        """See `ipvs_bed.FakeIpvsKernel.flush`."""
        super().flush(family, table)
        if table == "filter":
            self.run(partial(self._meddle, family))
        elif table == "mangle":
            self.run(lambda: [subprocess.run(["ipset", "flush", name], check=True) for name in self._own(family)])

    def _meddle(self, family: Family) -> None:
        ours = sorted((key for key in self._servers.servers(family) if key != OTHERS[family].key), key=repr)
        self._servers.run([Command(Verb.DELETE_SERVER, Server(key)) for key in ours[::2]])
        subprocess.run(["ip", "link", "delete", DEVICE], capture_output=True, check=False)

    def _own(self, family: Family) -> list[str]:
        present = self._sets[family].named("KUBE-")
        return [name for name in (set_name(family, which) for which in Set) if name in present]

    def sets(self, family: Family) -> dict[str, set[object]]:
        """See `agent_bed.Kernel.sets`."""
        members = {name: self._sets[family].members(name) for name in self._own(family)}
        return described(family, members, self._servers, self._addresses[family], self.masquerade)

    def busy(self) -> None:
        """Nobody sends anything while a history is played."""

    def calm(self) -> None:
        """See `busy`."""

    def check_ownership(self) -> None:
        """See `ipvs_bed.check_ownership`."""

        def work(family: Family) -> None:
            name = set_name(family, Set.SERVERS)
            named = self._sets[family].members(name) if name in self._own(family) else set()
            check_ownership(family, named, self._servers)

        for family in Family:
            self.run(partial(work, family))

    def others(self) -> list[str]:
        """Return what ipvsadm shows, one line each."""
        shown = self.run(lambda: subprocess.run(["ipvsadm", "-Sn"], check=True, capture_output=True, text=True))
        return sorted(shown.stdout.splitlines())
