"""Reads of the node what `diagnose.py` judges; changes nothing. Blocking. What is not allowed is named."""

import contextlib

from kubeproxy.kernel.conntrack import Conntrack
from kubeproxy.kernel.exec import CommandMissing, KernelError
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.routes import way_to
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.objects import Protocol
from kubeproxy.trace.answer import Answer
from kubeproxy.trace.diagnose import Facts

TABLES = ("raw", "mangle", "nat", "filter")
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/rp_filter",
)


def read_facts(answer: Answer, tables: Iptables, sysctls: Sysctls, conntrack: Conntrack) -> Facts:
    """Read everything that concerns a verdict."""
    packet = answer.packet
    names = [*_SYSCTLS, *([f"net/ipv4/conf/{packet.interface}/rp_filter"] if packet.interface else [])]
    unread: list[str] = []
    saved: dict[str, str] = {}
    flows: tuple[Flow, ...] = ()
    try:
        saved = {table: tables.save(table) for table in TABLES if table in tables.in_use()}
    except CommandMissing as missing:
        if _are_there(tables):
            unread.append(f"other people's rules ({missing})")
    except (KernelError, OSError) as error:
        unread.append(f"other people's rules ({error})")
    if packet.protocol == Protocol.UDP:
        match = FlowMatch(protocol=Protocol.UDP, ports=frozenset((packet.port,)), destination=packet.destination)
        try:
            flows = tuple(conntrack.flows(match))
        except (KernelError, OSError) as error:
            unread.append(f"tracked connections ({error})")
    way = way_to(packet.source)
    return Facts(
        sysctls={name: sysctls.read(name) for name in names},
        saved=saved,
        flows=flows,
        route_back=way.interface if way is not None else None,
        unread=tuple(unread),
    )


def _are_there(tables: Iptables) -> bool:
    """Return whether somebody has rules of iptables that its programs, which are not installed, would show."""
    if tables.flavour is Flavour.LEGACY:
        return bool(tables.in_use())
    with contextlib.suppress(KernelError, OSError):
        for name in TABLES:
            with contextlib.closing(KernelTable(tables.family, name)) as table:
                if table.exists():
                    return True
    return False
