"""What is in the tables whatever the Services are: fixed chains, their rules, and the jumps that lead to them.

Pure: text in, text out. A jump is upstream's, so an agent that takes over from kube-proxy finds its own there.
"""

from collections.abc import Iterator
from functools import partial

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.jumps import CANARY_RULE, Jump, Saved, declare, parse_save
from kubeproxy.dataplane.iptables.matches import nodeport_matches
from kubeproxy.dataplane.iptables.passing import forward_rules, masquerade_rules
from kubeproxy.model.node import NodeState

_NEW = "-m conntrack --ctstate NEW "
_PORTALS = "kubernetes service portals"
_OUTSIDE = "kubernetes externally-visible service portals"
_FIREWALL = "kubernetes load balancer firewall"
UNSERVED = "kubernetes cluster IPs: no endpoints, or no such port"
"""What the rule says that refuses for all Services."""

JUMPS = (
    Jump("filter", "INPUT", names.EXTERNAL_SERVICES, _NEW, _OUTSIDE),
    Jump("filter", "FORWARD", names.EXTERNAL_SERVICES, _NEW, _OUTSIDE),
    Jump("filter", "OUTPUT", names.EXTERNAL_SERVICES, _NEW, _OUTSIDE),
    Jump("filter", "INPUT", names.NODEPORTS, "", "kubernetes health check service ports"),
    Jump("filter", "FORWARD", names.SERVICES, _NEW, _PORTALS),
    Jump("filter", "OUTPUT", names.SERVICES, _NEW, _PORTALS),
    Jump("filter", "FORWARD", names.FORWARD, "", "kubernetes forwarding rules"),
    Jump("filter", "INPUT", names.PROXY_FIREWALL, _NEW, _FIREWALL),
    Jump("filter", "OUTPUT", names.PROXY_FIREWALL, _NEW, _FIREWALL),
    Jump("filter", "FORWARD", names.PROXY_FIREWALL, _NEW, _FIREWALL),
    Jump("nat", "OUTPUT", names.SERVICES, "", _PORTALS),
    Jump("nat", "PREROUTING", names.SERVICES, "", _PORTALS),
    Jump("nat", "POSTROUTING", names.POSTROUTING, "", "kubernetes postrouting rules"),
)
"""In the order in which upstream makes sure of them; each is put at the head of its chain.

Upstream has no jump from OUTPUT to KUBE-EXTERNAL-SERVICES: there the node's own processes wait for a time-out
where everybody else is refused.
"""

CHAINS = {"nat": names.NAT_CHAINS, "filter": names.FILTER_CHAINS, "mangle": names.MANGLE_CHAINS}
"""The fixed chains of each table."""


def is_ours(table: str, chain: str) -> bool:
    """Return whether a chain of this table is written by us (or by the kube-proxy that we replace)."""
    return chain in CHAINS.get(table, ()) or names.varies(table, chain)


def saved_in(table: str, text: str) -> Saved:
    """Read the output of iptables-save of one table."""
    return parse_save(text, partial(is_ours, table))


class Skeleton:
    """The fixed rules for one node and one family."""

    def __init__(
        self, node: NodeState, *, drop_invalid: bool = True, counters: frozenset[str] = frozenset()
    ) -> None:
        """See `backend`; ``counters`` are the nfacct objects that rules may name."""
        self.node = node
        self._family = node.family
        self._drop_invalid = drop_invalid
        self._counters = counters
        self._mark = f"{node.mark:#010x}"

    def nat(self) -> str:
        """Return the lines that make the nat table's fixed chains, emptied but for their fixed rules."""
        return declare(names.NAT_CHAINS) + "".join(self._nat_rules()) + CANARY_RULE + "\n"

    def filter(self) -> str:
        """Return the same for the filter table."""
        return declare(names.FILTER_CHAINS) + "".join(self._filter_rules()) + CANARY_RULE + "\n"

    def mangle(self) -> str:
        """Return the same for the mangle table, where only the canary lives."""
        return declare(names.MANGLE_CHAINS) + CANARY_RULE + "\n"

    def lines(self, table: str) -> str:
        """Return the same for any of these tables."""
        return {"nat": self.nat, "filter": self.filter, "mangle": self.mangle}[table]()

    def _nat_rules(self) -> Iterator[str]:
        yield f"-A {names.MARK_MASQ} -j MARK --or-mark {self._mark}\n"
        local = names.LOCAL_ENDPOINTS[self._family]
        count = ""
        if self.node.nodeports_on_loopback and names.LOCALHOST_NODEPORTS_COUNTER in self._counters:
            # Upstream has such a rule for every node port; one here sees the same connections, and no others pay.
            count = (
                f"-A {names.POSTROUTING} -m conntrack --ctstate DNAT --ctorigdst 127.0.0.0/8 "
                f"-m nfacct --nfacct-name {names.LOCALHOST_NODEPORTS_COUNTER}\n"
            )
        yield from masquerade_rules(self._mark, f"-m conntrack --ctstate DNAT -m set --match-set {local}", count)
        yield from self._nodeport_rules()

    def _nodeport_rules(self) -> Iterator[str]:
        """Yield the end of KUBE-SERVICES; every later rule is inserted before these."""
        why = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
        local = f"-m addrtype --dst-type LOCAL -j {names.NODEPORTS}\n"
        for match in nodeport_matches(self.node):
            yield f"-A {names.SERVICES} {match}{why} {local}"

    def _filter_rules(self) -> Iterator[str]:
        if self.node.nodeports_on_loopback:
            # route_localnet makes 127.0.0.0/8 reachable from the wire; only what we translated may pass.
            yield (
                f"-A {names.NODEPORTS} ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "
                '"block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n'
            )
        yield from self._cluster_ip_rules()
        yield from forward_rules(self._mark, drop_invalid=self._drop_invalid, counters=self._counters)

    def _cluster_ip_rules(self) -> Iterator[str]:
        """Yield the end of KUBE-SERVICES: a packet that is still addressed to a cluster IP has no place to go.

        So a Service without endpoints is refused with an entry in the set and no rule of its own.
        """
        comment = "-m comment --comment"
        held = f"-m set --match-set {names.CLUSTER_IPS[self._family]} dst"
        # Somebody's external IP may be such an address; what is said of it there comes first.
        yield f"-A {names.SERVICES} {held} -j {names.EXTERNAL_SERVICES}\n"
        yield f'-A {names.SERVICES} {comment} "{UNSERVED}" {held} -j REJECT\n'
        for cidr in self.node.service_cidrs:
            yield f"-A {names.SERVICES} -d {cidr} -j {names.EXTERNAL_SERVICES}\n"
            yield f'-A {names.SERVICES} -d {cidr} {comment} "kubernetes service CIDRs: no such address" -j DROP\n'
