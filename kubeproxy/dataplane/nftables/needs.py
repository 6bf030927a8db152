"""Whether a kernel can do what nftables mode asks of it: it is asked, in a transaction that does nothing."""

from collections.abc import Iterator

from kubeproxy.dataplane.nftables.classes import Classes, lead_of
from kubeproxy.dataplane.nftables.layout import CHAINS, Layout
from kubeproxy.dataplane.nftables.names import Class, Kind, Way
from kubeproxy.dataplane.nftables.ranges import spec_of
from kubeproxy.dataplane.nftables.sets import SPECS
from kubeproxy.kernel.nf_tables import probing
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Chain,
    Change,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState

PROBE_TABLE = "kube-proxy-probe"


def trouble(table: NfTable) -> str:
    """Return why nftables mode cannot run here, "" when it can. Blocking; ``table`` is called `PROBE_TABLE`."""
    unable = "this kernel's nf_tables cannot do it (5.13 and newer can, with their modules): "
    return probing.trouble(table, probe(table.family), unable)


def probe(family: Family) -> Iterator[Change]:
    """Yield steps that have all that the mode's have, for some node. Pure."""
    node = NodeState(
        family=family,
        name="probe",
        local=LocalTraffic(LocalKind.PREFIX, "probe"),
        service_cidrs=("198.51.100.0/24" if family is Family.V4 else "2001:db8::/64",),
    )
    layout, codes = Layout(node), Classes()
    yield AddTable("whether this kernel has what nftables mode needs")
    for spec in SPECS.values():
        yield AddSet(spec)
    for chain in CHAINS.values():
        yield AddChain(chain)
    for rule in layout.rules():
        yield AddRule(rule)
    yield AddSet(spec_of(24))
    for rule in layout.admitting([24]):
        yield AddRule(rule)
    kinds = (Kind.PICK, Kind.CLUSTER, Kind.MASQUERADE, Kind.LOCAL)
    sticky = (Class(way, kind, seconds=60) for way in Way for kind in kinds)
    for which in (*sticky, *(Class(way, kind, 2) for way in Way for kind in Kind)):
        yield AddChain(Chain(which.chain))
        for rule in layout.rules_of(which):
            yield AddRule(rule)
        where, lead = lead_of(which, codes[which])
        yield AddElements(where, [lead])
