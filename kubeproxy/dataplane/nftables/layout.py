"""The chains of the table and their rules, for one node: README.md has the picture. Pure.

Base chains stand one before the usual priorities, so that a packet is translated, or told that nobody is there,
before another table's rules for the same hook have a say, whichever was loaded first.
"""

from collections.abc import Iterable, Iterator

from kubeproxy.dataplane.nftables import names
from kubeproxy.dataplane.nftables.names import Class, Kind, Way
from kubeproxy.dataplane.nftables.phrases import (
    ACCEPT,
    DROP,
    FORGET_CODE,
    FROM_HERE,
    HAS_OUR_CODE,
    INVALID,
    MASQUERADE,
    NEW,
    REJECT,
    RETURN,
    TO_HERE,
    Phrase,
    Phrases,
    by_class,
    go,
    has_mark,
    jump,
    mark,
    toggle_mark,
)
from kubeproxy.dataplane.nftables.ranges import set_of
from kubeproxy.kernel.nf_tables.types import Base, Chain, Hook, Rule
from kubeproxy.model.addresses import without
from kubeproxy.model.node import NodeState

CHAINS: dict[str, Chain] = {
    chain.name: chain
    for chain in (
        Chain(names.FILTER_PREROUTING, Base("filter", Hook.PREROUTING, -111)),
        Chain(names.FILTER_OUTPUT_PRE_DNAT, Base("filter", Hook.OUTPUT, -111)),
        Chain(names.FILTER_INPUT, Base("filter", Hook.INPUT, -1)),
        Chain(names.FILTER_FORWARD, Base("filter", Hook.FORWARD, -1)),
        Chain(names.FILTER_OUTPUT, Base("filter", Hook.OUTPUT, -1)),
        Chain(names.NAT_PREROUTING, Base("nat", Hook.PREROUTING, -101)),
        Chain(names.NAT_OUTPUT, Base("nat", Hook.OUTPUT, -101)),
        Chain(names.NAT_POSTROUTING, Base("nat", Hook.POSTROUTING, 99)),
        Chain(names.SERVICES),
        Chain(names.NODEPORTS),
        Chain(names.MASQUERADING),
        Chain(names.SERVICE_CHECK),
        Chain(names.NODEPORT_CHECK),
        Chain(names.CLUSTER_IPS_CHECK),
        Chain(names.FIREWALL_CHECK),
        Chain(names.FIREWALL_SOURCES),
    )
}
"""Every chain that is always there, by name."""


class Layout:
    """The rules for one node and one family."""

    def __init__(self, node: NodeState, *, drop_invalid: bool = True) -> None:
        """See the module; ``drop_invalid``: whether what connection tracking cannot place is not forwarded."""
        self._node = node
        self._drop_invalid = drop_invalid
        self._words = Phrases(node.family)
        self._mark = mark(node.mark)
        self._pods = self._words.pods(node.local)
        self._masqueraded = () if node.masquerade_all else self._words.pods(node.local, strangers=True)
        """Whose traffic to a cluster IP is masqueraded; None is nobody's."""

    def rules(self) -> Iterator[Rule]:
        """Yield the rules of `CHAINS`, but for those of `FIREWALL_SOURCES`."""
        yield from self._hooks()
        yield from self._services()
        yield from self._masquerading()
        yield from self._checks()

    def admitting(self, lengths: Iterable[int]) -> Iterator[Rule]:
        """Yield the rules of `FIREWALL_SOURCES`, the only chain of `CHAINS` whose rules depend on Services."""
        for length in sorted(lengths, reverse=True):
            phrase = self._words.is_from(set_of(length), length)
            yield Rule(names.FIREWALL_SOURCES, (*phrase, RETURN))
        yield Rule(names.FIREWALL_SOURCES, DROP)

    def rules_of(self, which: Class) -> list[Rule]:
        """Return the rules of a class's chain."""
        return [Rule(which.chain, phrase) for phrase in self._serve(which)]

    def _hooks(self) -> Iterator[Rule]:
        for chain in (names.FILTER_PREROUTING, names.FILTER_OUTPUT_PRE_DNAT):
            yield Rule(chain, (*NEW, jump(names.FIREWALL_CHECK)))
        for chain in (names.NAT_PREROUTING, names.NAT_OUTPUT):
            yield Rule(chain, (jump(names.SERVICES),))
        yield Rule(names.NAT_POSTROUTING, (jump(names.MASQUERADING),))
        # An address of a Service comes before a node port of that number, here as in `services`.
        yield Rule(names.FILTER_INPUT, (*NEW, jump(names.SERVICE_CHECK)))
        for match in self._answering():
            yield Rule(names.FILTER_INPUT, (*NEW, *TO_HERE, *match, jump(names.NODEPORT_CHECK)))
        if self._drop_invalid:
            # A packet outside the window is not translated back; its sender would be reset by the client.
            yield Rule(names.FILTER_FORWARD, (*INVALID, *DROP))
        for chain in (names.FILTER_FORWARD, names.FILTER_OUTPUT):
            yield Rule(chain, (*NEW, jump(names.SERVICE_CHECK)))
            yield Rule(chain, (*NEW, jump(names.CLUSTER_IPS_CHECK)))

    def _services(self) -> Iterator[Rule]:
        yield from self._find_class(Way.ADDRESS)
        for match in self._answering():
            yield Rule(names.SERVICES, (*TO_HERE, *match, go(names.NODEPORTS)))
        yield from self._find_class(Way.NODE_PORT)

    def _find_class(self, way: Way) -> Iterator[Rule]:
        """Yield the rules from which packets go to their class, and do not come back.

        They alone lead to the chains of classes, and those to no other place's: whenever a class comes, older
        kernels follow every path from the base chains, so a class must be on few of them.
        """
        own, words = way.value, self._words
        # Pods, and the node itself, are no traffic from outside: for them policy Local is Cluster.
        yield Rule(own.finds, words.find_class(way, own.short_circuits))
        if self._pods is not None:
            yield Rule(own.finds, (*self._pods, *by_class(own.short_circuit_picks)))
        # Whose address it is costs another look-up, so where policy Local does not matter nobody asks.
        from_node = (*HAS_OUR_CODE, *FROM_HERE)
        yield Rule(own.finds, (*from_node, *self._mark, *by_class(own.short_circuit_picks)))
        yield Rule(own.finds, words.find_class(way, own.services))
        yield Rule(own.finds, by_class(own.picks))

    def _answering(self) -> Iterator[Phrase]:
        """Yield the matches for where node ports answer, beside "a local address"; a packet passes one of them."""
        loopback = self._node.family.loopback
        if not self._node.nodeport_cidrs:
            yield self._words.to_network(loopback, outside=True)
        for cidr in self._node.nodeport_cidrs:
            for part in without(cidr, loopback):
                yield self._words.to_network(part)

    def _masquerading(self) -> Iterator[Rule]:
        chain, bit = names.MASQUERADING, self._node.mark
        # Queues on the way out would take a class for a band of theirs.
        yield Rule(chain, (*HAS_OUR_CODE, *FORGET_CODE))
        # The mark goes, lest a packet that passes the stack again (a VXLAN's) be masqueraded twice.
        yield Rule(chain, (*has_mark(bit), *toggle_mark(bit), MASQUERADE))
        # An endpoint that reaches itself through its Service must not see its own address as the client's.
        yield Rule(chain, (*self._words.hairpin(), MASQUERADE))

    def _checks(self) -> Iterator[Rule]:
        words = self._words
        for way, chain in ((Way.ADDRESS, names.SERVICE_CHECK), (Way.NODE_PORT, names.NODEPORT_CHECK)):
            yield Rule(chain, (*words.at(way, way.value.no_endpoints), *REJECT))
            yield Rule(chain, (*words.at(way, way.value.no_local), *DROP))
        yield Rule(
            names.CLUSTER_IPS_CHECK,
            (*words.is_cluster_ip(names.CLUSTER_IPS), *REJECT),
            "Reject traffic to invalid ports of ClusterIPs",
        )
        for cidr in self._node.service_cidrs:
            why = "Drop traffic to unallocated ClusterIPs"
            yield Rule(names.CLUSTER_IPS_CHECK, (*words.to_network(cidr), *DROP), why)
        guarded = words.at(Way.ADDRESS, names.GUARDED_IPS)
        yield Rule(names.FIREWALL_CHECK, (*guarded, go(names.FIREWALL_SOURCES)))

    def _serve(self, which: Class) -> Iterator[Phrase]:
        way, kind = which.way, which.kind
        if kind is Kind.UNTRANSLATED:
            yield (ACCEPT,)
            return
        if kind in (Kind.CHOOSE, Kind.CHOOSE_LOCAL):
            yield self._words.choose(way, which.maps, which.size)
            return
        if kind is Kind.CLUSTER and self._masqueraded is not None:
            yield (*self._masqueraded, *self._mark)
        if kind is Kind.MASQUERADE:
            yield self._mark
        yield from self._choose(which)

    def _choose(self, which: Class) -> Iterator[Phrase]:
        words = self._words
        if which.seconds:
            yield from words.remembered(which.way, which.maps, which.seconds)
            yield words.find_class(which.way, which.maps.sizes)
            yield by_class(which.maps.choosers)
            yield from words.remembering(which.way, which.maps, which.seconds)
        elif not which.size:
            yield (ACCEPT,)
        else:
            yield words.pick(which.way, which.maps, which.size)
