"""The fixed rules of ipvs mode, as restore text: chains, what is in them, and the jumps that lead there. Pure.

They depend on the node only and never change when Services do: what an address is treated like is what sets it is
in. README.md has the picture of a packet's way.
"""

from collections.abc import Iterator
from functools import partial

from kubeproxy.dataplane.iptables.jumps import CANARY_RULE, Jump, Saved, declare, parse_save
from kubeproxy.dataplane.iptables.matches import pod_matches
from kubeproxy.dataplane.iptables.names import CANARY, FORWARD, MARK_MASQ, POSTROUTING, SERVICES
from kubeproxy.dataplane.iptables.passing import forward_rules, masquerade_rules
from kubeproxy.dataplane.ipvs.names import (
    ACCESS,
    EGRESS,
    INGRESS,
    MARK_SHORT_CIRCUIT,
    NODE_PORT,
    OUT_ACCESS,
    Set,
    set_name,
)
from kubeproxy.model.node import NodeState

CHAINS = {
    "mangle": (INGRESS, EGRESS, MARK_SHORT_CIRCUIT, CANARY),
    "nat": (SERVICES, POSTROUTING, MARK_MASQ, CANARY),
    "filter": (SERVICES, FORWARD, NODE_PORT, ACCESS, OUT_ACCESS, CANARY),
}
"""The chains of each table, all of them ours."""

_NEW = "-m conntrack --ctstate NEW "
_PORTALS = "kubernetes service portals"
_ACCESS = "kubernetes ipvs access filter"
_GUARD = "kubernetes ipvs source ranges and policies"

JUMPS = (
    Jump("filter", "INPUT", NODE_PORT, "", "kubernetes health check rules"),
    Jump("filter", "FORWARD", SERVICES, _NEW, _PORTALS),
    Jump("filter", "OUTPUT", SERVICES, _NEW, _PORTALS),
    Jump("filter", "FORWARD", FORWARD, "", "kubernetes forwarding rules"),
    Jump("filter", "INPUT", ACCESS, "", _ACCESS),
    Jump("filter", "OUTPUT", OUT_ACCESS, "", _ACCESS),
    Jump("nat", "OUTPUT", SERVICES, "", _PORTALS),
    Jump("nat", "PREROUTING", SERVICES, "", _PORTALS),
    Jump("nat", "POSTROUTING", POSTROUTING, "", "kubernetes postrouting rules"),
    Jump("mangle", "PREROUTING", INGRESS, "", _GUARD),
    Jump("mangle", "OUTPUT", EGRESS, "", _GUARD),
)
"""Each is put at the head of its chain, so the last of a chain comes first."""


def is_ours(table: str, chain: str) -> bool:
    """Return whether a chain of this table is one of this mode's."""
    return chain in CHAINS.get(table, ())


def saved_in(table: str, text: str) -> Saved:
    """Read the output of iptables-save of one table."""
    return parse_save(text, partial(is_ours, table))


class Rules:
    """The rules for one node and one family."""

    def __init__(
        self, node: NodeState, *, drop_invalid: bool = True, counters: frozenset[str] = frozenset()
    ) -> None:
        """See the class; ``counters`` are the nfacct objects that rules may name."""
        self._node = node
        self._drop_invalid = drop_invalid
        self._counters = counters
        self._mark = f"{node.mark:#010x}"
        self._pods, self._strangers = pod_matches(node.local)

    def text(self, table: str) -> str:
        """Return the lines that make a table's chains and fill them."""
        makers = {"mangle": self._mangle, "nat": self._nat, "filter": self._filter}
        rules = "".join([f"-A {rule}\n" for rule in makers[table]()])
        return f"{declare(CHAINS[table])}{rules}{CANARY_RULE}\n"

    def _match(self, which: Set, directions: str = "dst,dst", *, without: bool = False) -> str:
        return f"-m set {'! ' if without else ''}--match-set {set_name(self._node.family, which)} {directions}"

    def _mangle(self) -> Iterator[str]:
        """Yield what comes before any translation, while the packet has its first destination."""
        short_circuit = self._match(Set.SHORT_CIRCUIT)
        guard = f"{self._match(Set.GUARDED)} {self._match(Set.ADMITTED, 'dst,dst,src', without=True)}"
        for chain in (INGRESS, EGRESS):
            yield f"{chain} {self._match(Set.SERVERS, without=True)} -j RETURN"
            yield f"{chain} {_NEW}{guard} -j DROP"
            # Pods, and the node itself, are no traffic from outside: for them the policy is Cluster. All packets
            # get the mark, not just a connection's first: IPVS may have to choose again.
            if chain == EGRESS:
                yield f"{chain} {short_circuit} -g {MARK_SHORT_CIRCUIT}"
            elif self._pods:
                yield f"{chain} {self._pods}{short_circuit} -g {MARK_SHORT_CIRCUIT}"
            yield f"{chain} {_NEW}{self._match(Set.NO_LOCAL)} -j DROP"
        name = set_name(self._node.family, Set.SHORT_CIRCUIT)
        yield f"{MARK_SHORT_CIRCUIT} -j SET --map-set {name} dst,dst --map-mark"

    def _nat(self) -> Iterator[str]:
        mark = self._mark
        yield f"{MARK_MASQ} -j MARK --or-mark {mark}"
        yield f"{SERVICES} {self._match(Set.SERVERS, without=True)} -j RETURN"
        strangers = "" if self._node.masquerade_all else self._strangers or None
        if strangers is not None:
            yield f"{SERVICES} {strangers}{self._match(Set.CLUSTER_IP)} -j {MARK_MASQ}"
        yield f"{SERVICES} {self._match(Set.MASQUERADE)} -j {MARK_MASQ}"
        yield f"{SERVICES} -m addrtype --src-type LOCAL {self._match(Set.SHORT_CIRCUIT)} -j {MARK_MASQ}"
        # Where the node's address is not known, its processes speak to a virtual address from that very address.
        yield f"{SERVICES} {self._match(Set.ADDRESSES, 'src')} -j {MARK_MASQ}"
        # IPVS comes later, so nobody else's rule may translate the packet first.
        yield f"{SERVICES} -j ACCEPT"
        # Connection tracking calls nothing of IPVS's DNAT, so that is no condition here as it is in iptables mode;
        # what a process of the node says to one on the same address must be left out.
        hairpin = f"-m addrtype ! --src-type LOCAL {self._match(Set.LOOP_BACK, '')}".rstrip()
        for rule in masquerade_rules(mark, hairpin):
            yield rule.removeprefix("-A ").rstrip("\n")

    def _filter(self) -> Iterator[str]:
        server = self._match(Set.SERVERS)
        virtual = self._match(Set.ADDRESSES, "dst")
        comment = "-m comment --comment"
        yield f"{NODE_PORT} -p tcp {self._match(Set.HEALTH_CHECKS, 'dst')} -j ACCEPT"
        # IPVS would refuse too, if the packet got there: an administrator's firewall may stop it after this chain.
        why = f'{comment} "kubernetes services without endpoints"'
        yield f"{ACCESS} {_NEW}{self._match(Set.NO_ENDPOINTS)} {why} -j REJECT"
        # What KUBE-FORWARD is to service traffic in iptables mode: here it comes in before IPVS sends it on.
        yield f"{ACCESS} -m mark --mark {self._mark}/{self._mark} {server} -j ACCEPT"
        yield f"{ACCESS} -m conntrack --ctstate RELATED,ESTABLISHED {server} -j ACCEPT"
        yield f"{ACCESS} {server} -j RETURN"
        why = f'{comment} "kubernetes virtual addresses: no such port"'
        yield f"{ACCESS} {_NEW}{virtual} {why} -j REJECT"
        # What is for a virtual server was sent on by IPVS before it gets here.
        yield f"{OUT_ACCESS} {_NEW}{virtual} {why} -j REJECT"
        for cidr in self._node.service_cidrs:
            yield f'{SERVICES} -d {cidr} {comment} "kubernetes service CIDRs: no such address" -j DROP'
        for rule in forward_rules(self._mark, drop_invalid=self._drop_invalid, counters=self._counters):
            yield rule.removeprefix("-A ").rstrip("\n")
