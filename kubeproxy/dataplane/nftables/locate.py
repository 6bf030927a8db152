"""See `dataplane.locate`: what nftables mode has for a step, found in what renderer and layout would write. Pure.

Which number a class has is known to the running backend alone; here an element says to which chain it leads.
"""

from collections.abc import Iterator
from functools import cache

from kubeproxy.dataplane.locate import Spot, Subject
from kubeproxy.dataplane.nftables import names
from kubeproxy.dataplane.nftables.classes import Classes
from kubeproxy.dataplane.nftables.layout import Layout
from kubeproxy.dataplane.nftables.names import Class, Way
from kubeproxy.dataplane.nftables.render import Renderer, Unrenderable
from kubeproxy.dataplane.nftables.sets import SPECS, spec_named
from kubeproxy.dataplane.nftables.sheet import Sheet
from kubeproxy.kernel.netlink_messages import packed_address
from kubeproxy.kernel.nf_tables.fields import fields_bytes, node_port, text
from kubeproxy.kernel.nf_tables.rule_text import rule_text
from kubeproxy.kernel.nf_tables.types import Element, Rule
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import Refusal, ServiceState
from kubeproxy.model.node import NodeState

_ENDPOINTS = frozenset(
    name
    for way in Way
    for maps in (way.value.cluster, way.value.local)
    for name in (maps.endpoints, maps.sizes, maps.slots, maps.sticky)
) | {names.HAIRPIN}
"""What is an endpoint's own part."""
_SHARED = {
    Subject.UNDEFINED_PORT: (names.CLUSTER_IPS_CHECK, f"@{names.CLUSTER_IPS}"),
    Subject.UNALLOCATED: (names.CLUSTER_IPS_CHECK, "drop"),
    Subject.HAIRPIN: (names.MASQUERADING, f"@{names.HAIRPIN}"),
    Subject.RANGES: (names.FIREWALL_CHECK, f"@{names.GUARDED_IPS}"),
}
"""Rules that all Services have together: the chain, and words of the rule."""
_MARKS = "meta mark set"
_FROM_NODE = "fib saddr"


class NftablesLocator:
    """See `Locator`. Cost: that of rendering a port, and of the table's rules."""

    def locate(self, node: NodeState, state: ServiceState | None, spot: Spot) -> str:
        """See `Locator.locate`."""
        if spot.subject in _SHARED and (state is None or spot.subject in (Subject.HAIRPIN, Subject.RANGES)):
            chain, words = _SHARED[spot.subject]
            return _first(Layout(node).rules(), node.family, words, chain)
        if state is None:
            return ""
        try:
            port = _Port(node, state)
        except Unrenderable:
            return ""
        way, place = port.way(spot), port.place(spot)
        own = way.value
        # Whom policy Local does not bind has the classes, and the lists, of the cluster.
        cut_short = state.external_local and not spot.inside and not spot.local
        which = port.class_at(own.short_circuits if cut_short else own.services, place)
        match spot.subject:
            case Subject.ADDRESS:
                found = (port.entry(each, place) for each in (own.services, own.no_endpoints, own.no_local))
                return next(filter(None, found), "")
            case Subject.SHORT_CIRCUIT:
                return port.entry(own.short_circuits, place)
            case Subject.ENDPOINTS:
                chooses = port.class_at(which.maps.sizes, place) if which and which.seconds else which
                return port.rule(chooses, "numgen")
            case Subject.AFFINITY:
                return port.rule(which, f"@{own.affinity}")
            case Subject.MASQUERADE if cut_short:
                return _first(Layout(node).rules(), node.family, _FROM_NODE, own.finds)
            case Subject.MASQUERADE:
                return port.rule(which, _MARKS)
            case Subject.REFUSAL:
                refusal = state.internal_refusal if spot.inside else state.external_refusal
                return port.refusal(way, refusal)
        return ""

    def objects(self, node: NodeState, state: ServiceState) -> list[str]:
        """See `Locator.objects`."""
        try:
            port = _Port(node, state)
        except Unrenderable as why:
            return [f"nothing: {why}"]
        return list(dict.fromkeys([*port.entries(), *port.chains()]))


class _Port:
    """One Service port as it is rendered."""

    def __init__(self, node: NodeState, state: ServiceState) -> None:
        self._family = node.family
        self._layout = Layout(node)
        self._state = state
        self._sheet, codes = Sheet(), Classes()
        Renderer(node, codes).render(state, self._sheet)
        self._classes = {code: which for which, code in codes.items()}

    def way(self, spot: Spot) -> Way:
        return Way.ADDRESS if spot.address else Way.NODE_PORT

    def place(self, spot: Spot) -> bytes:
        protocol = self._state.name.protocol
        if not spot.address:
            return node_port(protocol, self._state.node_port)
        return packed_address(spot.address) + node_port(protocol, self._state.port)

    def class_at(self, name: str, place: bytes) -> Class | None:
        """Return the class that a map has for a place."""
        codes = (each.data for each in self._sheet.elements[name] if each.key == place)
        return next((self._classes[code] for code in codes if isinstance(code, bytes)), None)

    def entry(self, name: str, place: bytes) -> str:
        """Return a set's element for a place."""
        found = (each for each in self._sheet.elements[name] if each.key == place)
        return next((self._shown(name, each) for each in found), "")

    def entries(self) -> Iterator[str]:
        for name, elements in self._sheet.elements.items():
            if name not in _ENDPOINTS:
                yield from (self._shown(name, each) for each in elements)

    def chains(self) -> Iterator[str]:
        for which in self._sheet.classes:
            yield from (_shown_rule(rule, self._family) for rule in self._layout.rules_of(which))

    def rule(self, which: Class | None, words: str) -> str:
        """Return the first rule of a class's chain with some words in it."""
        return "" if which is None else _first(self._layout.rules_of(which), self._family, words)

    def refusal(self, way: Way, refusal: Refusal | None) -> str:
        refused = way.value.no_local if refusal is Refusal.DROP else way.value.no_endpoints
        return _first(self._layout.rules(), self._family, f"@{refused} ")

    def _shown(self, name: str, element: Element) -> str:
        spec = spec_named(name)
        assert spec is not None
        key = text(element.key, spec.key, self._family)
        shown = f"{'set' if spec.data is None else 'map'} {name}: {key}"
        which = self._classes.get(element.data) if isinstance(element.data, bytes) else None
        return f"{shown} → {which.chain}" if which else shown


@cache
def _key_bytes(family: Family) -> dict[str, int]:
    return {name: fields_bytes(spec.key, family) for name, spec in SPECS.items()}


def _shown_rule(rule: Rule, family: Family) -> str:
    return f"{rule.chain} {rule_text(rule, family, _key_bytes(family))}"


def _first(rules: Iterator[Rule] | list[Rule], family: Family, words: str, chain: str = "") -> str:
    shown = (_shown_rule(rule, family) for rule in rules if not chain or rule.chain == chain)
    return next((each for each in shown if words in each), "")
