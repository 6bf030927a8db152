"""The fixed rules of ipvs mode in nf_tables, for a node without iptables. Pure.

They say what `rules.py` says, in a table of our own beside the sets. Where they differ: an `accept` there is the
last word, here it ends our own chain only, so a firewall of the administrator's must let in by itself what is for
Services. Base chains stand one before the usual priorities, as iptables mode's jumps stand at the head of a chain.
"""

from collections.abc import Iterator

from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.nftables.phrases import (
    ACCEPT,
    DROP,
    FROM_HERE,
    INVALID,
    MASQUERADE,
    NEW,
    REJECT,
    RETURN,
    Phrase,
    Phrases,
    mark,
    toggle_mark,
)
from kubeproxy.kernel.netlink_messages import PROTOCOL_NUMBER
from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables.fields import number
from kubeproxy.kernel.nf_tables.rule_text import rule_text
from kubeproxy.kernel.nf_tables.types import AddChain, AddRule, Base, Chain, Change, FlushChain, Hook, Rule
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, NodeState
from kubeproxy.model.objects import Protocol

CHAINS: dict[str, Chain] = {
    chain.name: chain
    for chain in (
        Chain("ingress", Base("filter", Hook.PREROUTING, -151), "source ranges, short circuits, policies"),
        Chain("egress", Base("route", Hook.OUTPUT, -151), "the same for what this node itself sends"),
        Chain("nat-prerouting", Base("nat", Hook.PREROUTING, -101), "who is to be masqueraded"),
        Chain("nat-output", Base("nat", Hook.OUTPUT, -101), "the same for what this node itself sends"),
        Chain("nat-postrouting", Base("nat", Hook.POSTROUTING, 99), "masquerading"),
        Chain("filter-input", Base("filter", Hook.INPUT, -1), "what of a virtual address may be spoken to"),
        Chain("filter-output", Base("filter", Hook.OUTPUT, -1), "the same for this node itself"),
        Chain("filter-forward", Base("filter", Hook.FORWARD, -1), "what is sent on"),
    )
}
"""Base chains by name, and what each decides."""

_NONE = bytes(4)
_ESTABLISHED = 6  # bits of ct state: established, related
_NOT_FROM_HERE: Phrase = (FROM_HERE[0], ex.Compare(0, ex.Operator.UNEQUAL, number(2)))
"""`fib saddr type != local`."""
_OF_CONNECTIONS: Phrase = (
    ex.LoadCt(ex.Ct.STATE, 0),
    ex.Bitwise(0, number(_ESTABLISHED), _NONE),
    ex.Compare(0, ex.Operator.UNEQUAL, _NONE),
)
"""`ct state established,related`."""


class NftRules:
    """The rules for one node and one family."""

    def __init__(self, node: NodeState, *, drop_invalid: bool = True) -> None:
        self._node = node
        self._drop_invalid = drop_invalid
        self._phrases = Phrases(node.family)
        self._width = node.family.host_bits // 32
        """Registers of an address."""

    def rules(self) -> Iterator[Rule]:
        """Yield all rules; their sets must be there."""
        for chain, phrases in (
            ("ingress", self._guard(is_own=False)),
            ("egress", self._guard(is_own=True)),
            ("nat-prerouting", self._nat(is_own=False)),
            ("nat-output", self._nat(is_own=True)),
            ("nat-postrouting", self._postrouting()),
            ("filter-input", self._input()),
            ("filter-output", self._output()),
            ("filter-forward", self._forward()),
        ):
            yield from (Rule(chain, phrase) for phrase in phrases)

    def texts(self) -> Iterator[str]:
        """Yield them in nft's words, each with its chain before it."""
        return (f"{rule.chain} {rule_text(rule, self._node.family)}" for rule in self.rules())

    def refusal(self) -> Phrase:
        """Refuse new connections to virtual addresses."""
        return *NEW, *self._virtual(), *REJECT

    def _set(self, which: Set) -> str:
        return set_name(self._node.family, which)

    def _address(self, *, of_source: bool, to: int = 0) -> ex.Payload:
        at = {Family.V4: (16, 12), Family.V6: (24, 8)}[self._node.family][of_source]
        return ex.Payload(ex.Header.NETWORK, at, self._width * 4, to)

    def _place(self) -> Phrase:
        """Load `ip daddr . meta l4proto . th dport`."""
        end = self._width
        port = ex.Payload(ex.Header.TRANSPORT, 2, 2, end + 1)
        return self._address(of_source=False), ex.LoadMeta(ex.Meta.L4PROTO, end), port

    def _at(self, which: Set, *, without: bool = False) -> Phrase:
        """Match a packet to a place that is in a set."""
        return *self._place(), ex.Lookup(self._set(which), 0, inverted=without)

    def _from(self, which: Set, *, without: bool = False) -> Phrase:
        """Match a packet to a place and source that are in a set."""
        source = self._address(of_source=True, to=self._width + 2)
        return *self._place(), source, ex.Lookup(self._set(which), 0, inverted=without)

    def _virtual(self, *, of_source: bool = False) -> Phrase:
        """Match a packet whose address is a virtual one."""
        return self._address(of_source=of_source), ex.Lookup(self._set(Set.ADDRESSES), 0)

    def _short_circuit(self) -> Phrase:
        """Give a packet its mark where there is one for its place; else the rule ends here."""
        return *self._place(), ex.Lookup(self._set(Set.SHORT_CIRCUIT), 0, 0), ex.StoreMeta(ex.Meta.MARK, 0)

    def _pods(self, *, strangers: bool = False) -> Phrase | None:
        """Match packets of this cluster's pods, or of all others; None when nobody can tell."""
        return self._phrases.pods(self._node.local, strangers=strangers)

    def _is_marked(self, wanted: bytes) -> Phrase:
        bit = number(self._node.mark)
        return ex.LoadMeta(ex.Meta.MARK, 0), ex.Bitwise(0, bit, _NONE), ex.Compare(0, ex.Operator.EQUAL, wanted)

    def _guard(self, *, is_own: bool) -> Iterator[Phrase]:
        yield *self._at(Set.SERVERS, without=True), RETURN
        yield *NEW, *self._at(Set.GUARDED), *self._from(Set.ADMITTED, without=True), *DROP
        pods: Phrase | None = () if is_own else self._pods()
        if pods is not None:
            yield *pods, *self._short_circuit(), RETURN
        yield *NEW, *self._at(Set.NO_LOCAL), *DROP

    def _nat(self, *, is_own: bool) -> Iterator[Phrase]:
        masquerade = mark(self._node.mark)
        yield *self._at(Set.SERVERS, without=True), RETURN
        by_interface = self._node.local.kind in (LocalKind.INTERFACE, LocalKind.PREFIX)
        # What the node itself sends comes in by no interface.
        everybody = self._node.masquerade_all or (is_own and by_interface)
        strangers: Phrase | None = () if everybody else self._pods(strangers=True)
        if strangers is not None:
            yield *strangers, *self._at(Set.CLUSTER_IP), *masquerade
        yield *self._at(Set.MASQUERADE), *masquerade
        # A map cannot be a condition, so the mark is given again, and the masquerade bit beside it.
        yield *FROM_HERE, *self._short_circuit(), *masquerade
        yield *self._virtual(of_source=True), *masquerade
        # IPVS comes later, so nobody else's rule may translate the packet first: a connection is translated once,
        # and this leaves its destination as it is.
        is_ipv6 = self._node.family is Family.V6
        yield self._address(of_source=False), ex.DestinationNat(0, None, is_ipv6)

    def _postrouting(self) -> Iterator[Phrase]:
        yield *_NOT_FROM_HERE, *self._from(Set.LOOP_BACK), MASQUERADE
        yield *self._is_marked(_NONE), RETURN
        # The mark goes, lest a packet that passes the stack again (a VXLAN's) be masqueraded twice.
        yield toggle_mark(self._node.mark)
        yield (MASQUERADE,)

    def _input(self) -> Iterator[Phrase]:
        tcp = bytes((PROTOCOL_NUMBER[Protocol.TCP],))
        health_checks = ex.Lookup(self._set(Set.HEALTH_CHECKS), 0)
        is_tcp = ex.LoadMeta(ex.Meta.L4PROTO, 0), ex.Compare(0, ex.Operator.EQUAL, tcp)
        yield *is_tcp, ex.Payload(ex.Header.TRANSPORT, 2, 2, 0), health_checks, ACCEPT
        yield *NEW, *self._at(Set.NO_ENDPOINTS), *REJECT
        yield *self._is_marked(number(self._node.mark)), *self._at(Set.SERVERS), ACCEPT
        yield *_OF_CONNECTIONS, *self._at(Set.SERVERS), ACCEPT
        yield *self._at(Set.SERVERS), RETURN
        yield self.refusal()

    def _output(self) -> Iterator[Phrase]:
        # What is for a virtual server was sent on by IPVS before it gets here.
        yield self.refusal()
        yield from self._unallocated()

    def _forward(self) -> Iterator[Phrase]:
        if self._drop_invalid:
            # A packet outside the window is not translated back; its sender would be reset by the client.
            yield *INVALID, *DROP
        yield *self._is_marked(number(self._node.mark)), ACCEPT
        yield *_OF_CONNECTIONS, ACCEPT
        yield from self._unallocated()

    def _unallocated(self) -> Iterator[Phrase]:
        for cidr in self._node.service_cidrs:
            yield *NEW, *self._phrases.to_network(cidr), *DROP


def guard(family: Family) -> Iterator[Rule]:
    """Yield what stays while connections end under another mode.

    The addresses are local yet: without a rule, this node's own processes would answer at their other ports.
    """
    rules = NftRules(NodeState(family=family, name=""))
    yield from (Rule(chain, rules.refusal()) for chain in ("filter-input", "filter-output"))


def steps_of(rules: NftRules) -> Iterator[Change]:
    """Yield what writes all chains anew; their sets must be there."""
    for chain in CHAINS.values():
        yield AddChain(chain)
        yield FlushChain(chain.name)
    for rule in rules.rules():
        yield AddRule(rule)
