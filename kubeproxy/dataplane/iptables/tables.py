"""What is in the tables whatever the Services are: fixed chains, their rules, and the jumps that lead to them.

Pure: text in, text out. A jump is upstream's, so an agent that takes over from kube-proxy finds its own jumps
there; they are recognised by where they start and where they lead, since iptables-save words rules its own way.
"""

from collections.abc import Iterable, Iterator

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.matches import nodeport_matches
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Record

_NEW = "-m conntrack --ctstate NEW "
_PORTALS = "kubernetes service portals"
_OUTSIDE = "kubernetes externally-visible service portals"
_FIREWALL = "kubernetes load balancer firewall"


class Jump(Record, frozen=True):
    """A rule in a built-in chain that leads into ours."""

    table: str
    chain: str
    target: str
    match: str
    comment: str

    @property
    def rule(self) -> str:
        """Return the rule's text without the verb."""
        return f'{self.chain} {self.match}-m comment --comment "{self.comment}" -j {self.target}'


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


class Saved(Record, frozen=True, kw_only=True):
    """What matters to us in an iptables-save of one table."""

    chains: frozenset[str]
    """Every chain, anyone's."""
    rules: tuple[str, ...]
    """Rules that stand in somebody else's chains and lead into ours, without the verb."""

    def has(self, jump: Jump) -> bool:
        """Return whether a rule leads from the jump's chain to its target, on its conditions.

        The ipvs mode has one between the same two chains on none, which goes with that mode.
        """
        head, tail = f"{jump.chain} {jump.match}", f"-j {jump.target}"
        return any(rule.startswith(head) and rule.endswith(tail) for rule in self.rules)


def parse_save(table: str, text: str) -> Saved:
    """Read the output of iptables-save. Cost: one pass; only lines of others' chains are looked into."""
    chains, rules = set(), []
    for line in text.splitlines():
        if line.startswith(":"):
            chains.add(line[1:].partition(" ")[0])
        elif line.startswith("-A "):
            chain, _, rest = line[3:].partition(" ")
            if not is_ours(table, chain) and is_ours(table, target(rest)):
                rules.append(line[3:])
    return Saved(chains=frozenset(chains), rules=tuple(rules))


def target(rule: str) -> str:
    """Return the chain that a rule leads to, "" when it leads to none."""
    words = rule.split()
    for flag in ("-j", "-g"):
        if flag in words[:-1]:
            return words[len(words) - 1 - words[::-1].index(flag) + 1]
    return ""


def is_ours(table: str, chain: str) -> bool:
    """Return whether a chain of this table is written by us (or by the kube-proxy that we replace)."""
    return chain in CHAINS.get(table, ()) or (table == "nat" and names.is_service_chain(chain))


def _declare(chains: Iterable[str]) -> str:
    return "".join([f":{chain} - [0:0]\n" for chain in chains])


CANARY_RULE = f"-A {names.CANARY} -j RETURN"
"""Does nothing, and is gone after `iptables -F`, which leaves the chains."""


def missing_jumps(table: str, saved: Saved) -> str:
    """Return the lines that add the jumps which are not there."""
    return "".join(f"-I {jump.rule}\n" for jump in JUMPS if jump.table == table and not saved.has(jump))


class Skeleton:
    """The fixed rules for one node and one family."""

    def __init__(
        self, node: NodeState, *, drop_invalid: bool = True, counters: frozenset[str] = frozenset()
    ) -> None:
        """See `backend`; ``counters`` are the nfacct objects that rules may name."""
        self._node = node
        self._family = node.family
        self._drop_invalid = drop_invalid
        self._counters = counters
        self._mark = f"{node.mark:#010x}"

    def nat(self) -> str:
        """Return the lines that make the nat table's fixed chains, emptied but for their fixed rules."""
        return _declare(names.NAT_CHAINS) + "".join(self._nat_rules()) + CANARY_RULE + "\n"

    def filter(self) -> str:
        """Return the same for the filter table."""
        return _declare(names.FILTER_CHAINS) + "".join(self._filter_rules()) + CANARY_RULE + "\n"

    def mangle(self) -> str:
        """Return the same for the mangle table, where only the canary lives."""
        return _declare(names.MANGLE_CHAINS) + CANARY_RULE + "\n"

    def _nat_rules(self) -> Iterator[str]:
        mark, post, local = self._mark, names.POSTROUTING, names.LOCAL_ENDPOINTS[self._family]
        yield f"-A {names.MARK_MASQ} -j MARK --or-mark {mark}\n"
        # An endpoint that reaches itself through its Service must not see its own address as the client's.
        yield (
            f"-A {post} -m conntrack --ctstate DNAT -m set --match-set {local} dst,dst,src "
            "-j MASQUERADE --random-fully\n"
        )
        yield f"-A {post} -m mark ! --mark {mark}/{mark} -j RETURN\n"
        if self._node.nodeports_on_loopback and names.LOCALHOST_NODEPORTS_COUNTER in self._counters:
            # Upstream has such a rule for every node port; one here sees the same connections, and no others pay.
            yield (
                f"-A {post} -m conntrack --ctstate DNAT --ctorigdst 127.0.0.0/8 "
                f"-m nfacct --nfacct-name {names.LOCALHOST_NODEPORTS_COUNTER}\n"
            )
        # The mark goes, lest a packet that passes the stack again (a VXLAN's) be masqueraded twice.
        yield f"-A {post} -j MARK --xor-mark {mark}\n"
        comment = '-m comment --comment "kubernetes service traffic requiring SNAT"'
        yield f"-A {post} {comment} -j MASQUERADE --random-fully\n"
        yield from self._nodeport_rules()

    def _nodeport_rules(self) -> Iterator[str]:
        """Yield the end of KUBE-SERVICES; every later rule is inserted before these."""
        why = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
        local = f"-m addrtype --dst-type LOCAL -j {names.NODEPORTS}\n"
        for match in nodeport_matches(self._node):
            yield f"-A {names.SERVICES} {match}{why} {local}"

    def _filter_rules(self) -> Iterator[str]:
        mark, forward = self._mark, names.FORWARD
        if self._node.nodeports_on_loopback:
            # route_localnet makes 127.0.0.0/8 reachable from the wire; only what we translated may pass.
            yield (
                f"-A {names.NODEPORTS} ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "
                '"block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n'
            )
        yield from self._cluster_ip_rules()
        if self._drop_invalid:
            # A packet outside the window is not translated back; its sender would be reset by the client.
            name = names.CT_INVALID_COUNTER
            count = f"-m nfacct --nfacct-name {name} " if name in self._counters else ""
            yield f"-A {forward} -m conntrack --ctstate INVALID {count}-j DROP\n"
        comment = '-m comment --comment "kubernetes forwarding rules"'
        yield f"-A {forward} {comment} -m mark --mark {mark}/{mark} -j ACCEPT\n"
        yield (
            f'-A {forward} -m comment --comment "kubernetes forwarding conntrack rule" '
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
        )

    def _cluster_ip_rules(self) -> Iterator[str]:
        """Yield the end of KUBE-SERVICES: a packet that is still addressed to a cluster IP has no place to go."""
        comment = "-m comment --comment"
        held = f"-m set --match-set {names.CLUSTER_IPS[self._family]} dst"
        # Somebody's external IP may be such an address; what is said of it there comes first.
        yield f"-A {names.SERVICES} {held} -j {names.EXTERNAL_SERVICES}\n"
        yield f'-A {names.SERVICES} {comment} "kubernetes cluster IPs: no such port" {held} -j REJECT\n'
        for cidr in self._node.service_cidrs:
            yield f"-A {names.SERVICES} -d {cidr} -j {names.EXTERNAL_SERVICES}\n"
            yield f'-A {names.SERVICES} -d {cidr} {comment} "kubernetes service CIDRs: no such address" -j DROP\n'
