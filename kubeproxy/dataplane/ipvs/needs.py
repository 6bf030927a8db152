"""What ipvs mode needs of the kernel, by the names of its modules: which are missing, and what to do about it.

Everything is asked of the kernel itself, after modprobe has had its try: where a thing is built in, or loads by
itself, there is no module to be found, and that is no fault.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from kubeproxy.dataplane.ipvs.names import set_name
from kubeproxy.dataplane.ipvs.nft_rules import NftRules, steps_of
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.kernel.nf_tables import probing
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.types import AddSet, AddTable, Change
from kubeproxy.kernel.nft_set_elements import spec_of
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState
from kubeproxy.model.objects import Record

PROBE_TABLE = "kube-proxy-ipvs-probe"


class Machine(Protocol):
    """This node's kernel (`kernel.features.Features`), or a fake. Each question may raise KernelError, OSError."""

    def load(self, modules: Sequence[str]) -> None:
        """Try to load modules; what cannot be loaded is passed over."""
        ...

    def has_ipvs(self) -> bool:
        """Return whether the kernel has IPVS."""
        ...

    def has_scheduler(self, name: str) -> bool:
        """Return whether IPVS has a scheduler."""
        ...

    def has_device_kind(self, kind: str) -> bool:
        """Return whether devices of a kind can be made."""
        ...

    def has_set_type(self, name: str) -> bool:
        """Return whether ipsets of a type can be made."""
        ...

    def has_match(self, match: str) -> bool:
        """Return whether iptables' rules, in either flavour, may have `-m MATCH`."""
        ...

    def iptables_trouble(self) -> str:
        """Return why there can be no rules by iptables' programs, "" when there can."""
        ...

    def nf_table(self, family: Family, name: str) -> AbstractContextManager[NfTable]:
        """Lend a table of nf_tables, which need not be there."""
        ...


class Need(Record, frozen=True):
    """Something that a kernel has built in, or as a module, or not at all."""

    module: str
    option: str
    """Of the kernel's own configuration."""

    def __str__(self) -> str:
        """Name both."""
        return f"{self.module} ({self.option})"


IPVS = Need("ip_vs", "CONFIG_IP_VS")
DUMMY = Need("dummy", "CONFIG_DUMMY")
MATCH = Need("xt_set", "CONFIG_NETFILTER_XT_SET")
SET_TYPES = {
    "hash:ip": Need("ip_set_hash_ip", "CONFIG_IP_SET_HASH_IP"),
    "hash:ip,port": Need("ip_set_hash_ipport", "CONFIG_IP_SET_HASH_IPPORT"),
    "hash:ip,port,ip": Need("ip_set_hash_ipportip", "CONFIG_IP_SET_HASH_IPPORTIP"),
    "hash:ip,port,net": Need("ip_set_hash_ipportnet", "CONFIG_IP_SET_HASH_IPPORTNET"),
    "bitmap:port": Need("ip_set_bitmap_port", "CONFIG_IP_SET_BITMAP_PORT"),
}


BY_IPTABLES = frozenset((*SET_TYPES.values(), MATCH))
"""What only rules by iptables need; nftables' are the other way."""


class Verdict(Record, frozen=True, kw_only=True):
    """How ipvs mode can run on a node."""

    trouble: str = ""
    """Why it cannot."""
    by_iptables: bool = True
    """Whether its rules are iptables' and ipsets; else they are in a table of nftables."""


def scheduler_need(name: str) -> Need:
    """Return what a scheduler is called as a part of the kernel."""
    return Need(f"ip_vs_{name}", f"CONFIG_IP_VS_{name.upper()}")


def needs(scheduler: str) -> tuple[Need, ...]:
    """Return everything that ipvs mode needs with this default scheduler. Pure."""
    return IPVS, scheduler_need(scheduler), DUMMY, *SET_TYPES.values(), MATCH


def missing(machine: Machine, scheduler: str) -> tuple[Need, ...]:
    """Return what this kernel has not, after an attempt to load it. Blocking. Raises KernelError, OSError."""
    machine.load([each.module for each in needs(scheduler)])
    return tuple(_missing(machine, scheduler))


def _missing(machine: Machine, scheduler: str) -> Iterator[Need]:
    has_ipvs = machine.has_ipvs()
    if not has_ipvs:
        yield IPVS
    if not has_ipvs or not machine.has_scheduler(scheduler):
        yield scheduler_need(scheduler)
    rest: list[tuple[Need, Callable[[str], bool], str]] = [(DUMMY, machine.has_device_kind, "dummy")]
    rest += [(need, machine.has_set_type, name) for name, need in SET_TYPES.items()]
    rest.append((MATCH, machine.has_match, "set"))
    for need, has, name in rest:
        if not has(name):
            yield need


def verdict(machine: Machine, scheduler: str) -> Verdict:
    """Find out whether and how the mode can run here. Blocking. Raises KernelError, OSError."""
    lacking = missing(machine, scheduler)
    if not BY_IPTABLES.issuperset(lacking):
        return Verdict(trouble=in_words(lacking))
    trouble = in_words(lacking) if lacking else machine.iptables_trouble()
    if not trouble:
        return Verdict()
    with machine.nf_table(Family.V4, PROBE_TABLE) as table:
        why_not = probing.trouble(table, probe())
    if why_not:
        return Verdict(trouble=f"{trouble}; and not by nftables either, in place of iptables: {why_not}")
    return Verdict(by_iptables=False)


def probe() -> Iterator[Change]:
    """Yield steps that have all that the mode's have by nftables, for some node. Pure."""
    node = NodeState(family=Family.V4, name="probe", local=LocalTraffic(LocalKind.PREFIX, "probe"))
    yield AddTable("whether this kernel has what ipvs mode needs")
    for which, kind in KINDS.items():
        yield AddSet(spec_of(kind, set_name(Family.V4, which)))
    yield from steps_of(NftRules(node))


def in_words(lacking: Sequence[Need]) -> str:
    """Say what is missing and what to do."""
    modules = " ".join(each.module for each in lacking)
    return (
        f"this kernel has no {', '.join(map(str, lacking))}; load them (modprobe -a {modules}), "
        "or boot a kernel that is built with them"
    )
