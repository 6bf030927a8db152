"""See `dataplane.locate`: the rules of iptables mode, found in what the renderer itself would write. Pure.

A rule in a chain that Services share is named by that chain, also where it stands in one of its branches.
"""

from collections.abc import Iterable

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.dispatch import FIREWALL
from kubeproxy.dataplane.iptables.render import Fragment, Renderer, Unrenderable
from kubeproxy.dataplane.iptables.tables import UNSERVED, Skeleton
from kubeproxy.dataplane.locate import Spot, Subject
from kubeproxy.model.desired import Refusal, ServiceState
from kubeproxy.model.node import NodeState

_DNAT = "-j DNAT"


class IptablesLocator:
    """See `Locator`. Cost: that of rendering a port."""

    def locate(self, node: NodeState, state: ServiceState | None, spot: Spot) -> str:
        """See `Locator.locate`."""
        if spot.subject is Subject.HAIRPIN:
            return _rule("nat", _first(Skeleton(node).nat(), names.LOCAL_ENDPOINTS[node.family]))
        if state is None:
            return self._shared(node, spot)
        try:
            fragment = Renderer(node).render(state)
        except Unrenderable:
            return ""
        match spot.subject:
            case Subject.ADDRESS:
                return _rule("nat", _leading(map(str, fragment.nat_rules), state, spot))
            case Subject.RANGES:
                dropped = [str(rule) for rule in fragment.filter_rules if rule.shared is FIREWALL]
                drop = next((rule for rule in dropped if rule.endswith("-j DROP")), "")
                return _joined(_chain(fragment, names.FIREWALL_PREFIX), _rule("filter", drop))
            case Subject.SHORT_CIRCUIT:
                return _chain(fragment, names.EXTERNAL_PREFIX)
            case Subject.ENDPOINTS:
                return _chain(fragment, names.LOCAL_PREFIX if spot.local else names.SERVICE_PREFIX)
            case Subject.AFFINITY:
                return _chain(fragment, names.ENDPOINT_PREFIX)
            case Subject.MASQUERADE:
                return _rule("nat", self._marking(fragment, state, spot))
            case Subject.REFUSAL:
                rules = [str(rule) for rule in fragment.filter_rules if rule.shared is not FIREWALL]
                return _rule("filter", _leading(rules, state, spot)) or _unserved(node)
        return ""

    def objects(self, node: NodeState, state: ServiceState) -> list[str]:
        """See `Locator.objects`."""
        try:
            fragment = Renderer(node).render(state)
        except Unrenderable as why:
            return [f"nothing: {why}"]
        own = [line for line in fragment.text.splitlines() if line.startswith("-A") and _DNAT not in line]
        found = [_rule("nat", str(rule)) for rule in fragment.nat_rules]
        found += [_rule("nat", line) for line in own if names.ENDPOINT_PREFIX not in line]
        found += [_rule("filter", str(rule)) for rule in fragment.filter_rules]
        if state.cluster_ip and state.internal_refusal is Refusal.REJECT:
            found.append(_unserved(node))
        return found

    def _shared(self, node: NodeState, spot: Spot) -> str:
        text = Skeleton(node).filter()
        if spot.subject is Subject.UNDEFINED_PORT:
            return _unserved(node)
        if spot.subject is Subject.UNALLOCATED:
            return _rule("filter", _first(text, "service CIDRs"))
        if spot.subject is Subject.MARTIAN:
            return _rule("filter", _first(text, "block incoming localnet"))
        return ""

    def _marking(self, fragment: Fragment, state: ServiceState, spot: Spot) -> str:
        prefix = names.EXTERNAL_PREFIX
        if spot.inside:
            prefix = names.LOCAL_PREFIX if state.internal_local else names.SERVICE_PREFIX
        lines = fragment.body.splitlines()
        return next((each for each in lines if each.startswith(f"-A {prefix}") and names.MARK_MASQ in each), "")


def _unserved(node: NodeState) -> str:
    """Return the rule that refuses what no endpoint has, whichever cluster IP it is to."""
    return _rule("filter", _first(Skeleton(node).filter(), UNSERVED))


def _leading(rules: Iterable[str], state: ServiceState, spot: Spot) -> str:
    """Return the rule that a packet to the place meets."""
    words = f"-d {spot.address}/" if spot.address else f"--dport {state.node_port} "
    return next((rule for rule in rules if words in f"{rule} "), "")


def _chain(fragment: Fragment, prefix: str) -> str:
    found = [chain for chain in fragment.every_chain if chain.startswith(prefix)]
    if not found:
        return ""
    return f"nat {found[0]}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")


def _first(text: str, words: str) -> str:
    return next((line for line in text.splitlines() if words in line), "")


def _rule(table: str, rule: str) -> str:
    return f"{table} {rule.removeprefix('-A ')}" if rule else ""


def _joined(*parts: str) -> str:
    return ", else ".join(part for part in parts if part)
