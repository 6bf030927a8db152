"""Looks at this machine's real kernel, by mode. Blocking."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from functools import partial

from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.kernel.conntrack import Conntrack, KernelConntrack
from kubeproxy.kernel.conntrack_messages import is_established
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.ipvs_types import Counted, ServerKey
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.sets import Sets
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.traffic import flows, virtual_servers
from kubeproxy.traffic.answer import Look
from kubeproxy.traffic.directory import Directory
from kubeproxy.traffic.observer import LookAt
from kubeproxy.traffic.question import Question
from kubeproxy.traffic.virtual_servers import Listed

READINGS = 3
"""How often a list is read that changes under the reading."""


def counted_by(mode: Mode) -> str:
    """Return which part of the kernel counts in a mode."""
    return "IPVS" if mode is Mode.IPVS else "connection tracking"


def looks(mode: Mode, families: Collection[Family]) -> dict[Family, LookAt]:
    """Return what looks at each family in a mode."""
    if mode is Mode.IPVS:
        servers = Ipvs()
        return {family: partial(look_at_ipvs, servers, Ipset(family)) for family in families}
    return {family: partial(look_at_flows, KernelConntrack(family)) for family in families}


def look_at_ipvs(servers: VirtualServers, sets: Sets, directory: Directory, question: Question) -> Look:
    """Look at virtual servers."""
    family = directory.node.family
    # These first, as the set names a virtual server before it is made: a new one is not taken for another's.
    counted = _counted(servers, directory.node.family)
    present = sets.named(set_name(family, Set.SERVERS)) | sets.named(set_name(family, Set.SHORT_CIRCUIT))
    names = {which: set_name(family, which) for which in (Set.SERVERS, Set.SHORT_CIRCUIT)}
    members = {which: sets.members(name) if name in present else set() for which, name in names.items()}
    listed = Listed(counted, members)
    return virtual_servers.look(directory, listed, servers.destinations, question)


def _counted(servers: VirtualServers, family: Family) -> dict[ServerKey, Counted]:
    for _ in range(READINGS - 1):
        with contextlib.suppress(DumpInterrupted):
            return servers.counted_servers(family)
    return servers.counted_servers(family)


def look_at_flows(conntrack: Conntrack, directory: Directory, question: Question) -> Look:
    """Look at tracked connections. What changes meanwhile may be missed."""
    read: Callable[[FlowMatch], Iterator[Flow]] = partial(_flows, conntrack)
    return flows.look(directory, read, is_established, question)


def _flows(conntrack: Conntrack, match: FlowMatch) -> Iterator[Flow]:
    try:
        yield from conntrack.flows(match)
    except DumpInterrupted:
        return
