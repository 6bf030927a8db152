"""See `dataplane.locate`: what ipvs mode has for a step, found in what the renderer itself would write. Pure."""

from kubeproxy.dataplane.ipvs.names import NFT_TABLE, Set, set_name
from kubeproxy.dataplane.ipvs.nft_rules import NftRules
from kubeproxy.dataplane.ipvs.part import Part, Virtual
from kubeproxy.dataplane.ipvs.render import Renderer
from kubeproxy.dataplane.ipvs.rules import Rules
from kubeproxy.dataplane.ipvs.substitutes import Replaced, served
from kubeproxy.dataplane.locate import Spot, Subject
from kubeproxy.kernel.nf_tables.fields import SPOKEN
from kubeproxy.kernel.sets import entry_text
from kubeproxy.model.desired import Refusal, ServiceState
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import NodeState

ANY_NODE_ADDRESS = "NODE"
"""Written where a virtual server has one of the node's own addresses."""

_SHARED = {
    Subject.UNDEFINED_PORT: ("filter", "no such port", "IPVS-IPS counter reject"),
    Subject.UNALLOCATED: ("filter", "no such address", "filter-forward ct state new"),
}
"""Table and words of iptables' rule; words of nftables'."""


class IpvsLocator:
    """See `Locator`. Cost: that of rendering a port."""

    def __init__(
        self, settings: IpvsSettings, replaced: Replaced | None = None, *, by_iptables: bool = True
    ) -> None:
        """See the class; ``by_iptables``: where the rules are, else in a table of nftables."""
        self._settings = settings
        self._replaced = replaced or Replaced()
        self._by_iptables = by_iptables

    def locate(self, node: NodeState, state: ServiceState | None, spot: Spot) -> str:
        """See `Locator.locate`."""
        if spot.subject is Subject.HAIRPIN:
            return self._rule(node, "nat", set_name(node.family, Set.LOOP_BACK))
        if spot.subject in _SHARED:
            return self._rule(node, *_SHARED[spot.subject])
        if state is None:
            return ""
        # Under policy Local, who has the cluster's endpoints from outside was sent there by a mark.
        cut_short = state.external_local and not spot.inside and not spot.local
        server = self._short_circuit(node, state) if cut_short else self._server(node, state, spot)
        match spot.subject:
            case Subject.ADDRESS:
                return self._server(node, state, spot)
            case Subject.ENDPOINTS | Subject.AFFINITY:
                return server
            case Subject.RANGES if state.source_ranges:
                return self._rule(node, "mangle", set_name(node.family, Set.GUARDED))
            case Subject.SHORT_CIRCUIT:
                return self._rule(
                    node, "mangle", f"{set_name(node.family, Set.SHORT_CIRCUIT)} dst,dst -g", "map @"
                )
            case Subject.MASQUERADE:
                return self._marking(node, cut_short, spot)
            case Subject.REFUSAL:
                if (state.internal_refusal if spot.inside else state.external_refusal) is Refusal.DROP:
                    return self._rule(node, "mangle", set_name(node.family, Set.NO_LOCAL))
                return self._rule(node, "filter", set_name(node.family, Set.NO_ENDPOINTS))
        return ""

    def objects(self, node: NodeState, state: ServiceState) -> list[str]:
        """See `Locator.objects`."""
        part = self._part(node, state)
        found = [_shown(each) for each in part.virtuals]
        entries = [entry for each in part.virtuals for entry in each.entries]
        entries += [entry for entry in part.entries if entry[0] is not Set.LOOP_BACK]
        # Which mark leads to a short circuit is known to the backend alone.
        for which, member in entries:
            found.append(f"set {set_name(node.family, which)}: {entry_text(member).partition(' ')[0]}")
        return list(dict.fromkeys(found))

    def _part(self, node: NodeState, state: ServiceState) -> Part:
        asked = Renderer(node, self._settings, [node.node_ip]).render(state)
        part, _ = served(asked, self._replaced.of(node.family, state.name))
        return part

    def _server(self, node: NodeState, state: ServiceState, spot: Spot) -> str:
        """Return the virtual server of the place that a packet is for."""
        for each in self._part(node, state).virtuals:
            key = each.server.key
            if each.is_node_port if not spot.address else key.address == spot.address:
                return _shown(each)
        if spot.address or not state.node_port:
            return ""
        return (
            f"IPVS {state.name.protocol} {ANY_NODE_ADDRESS}:{state.node_port}"  # the node's address is not known
        )

    def _short_circuit(self, node: NodeState, state: ServiceState) -> str:
        marked = [each for each in self._part(node, state).virtuals if each.server.key.protocol is None]
        return _shown(marked[0]) if marked else ""

    def _marking(self, node: NodeState, cut_short: bool, spot: Spot) -> str:
        if cut_short:
            return self._rule(node, "nat", "--src-type LOCAL", "fib saddr type local")
        which = Set.CLUSTER_IP if spot.inside else Set.MASQUERADE
        return self._rule(node, "nat", f"{set_name(node.family, which)} ")

    def _rule(self, node: NodeState, table: str, words: str, nft_words: str = "") -> str:
        """Return the first rule with some words in it; for nftables there are others perhaps."""
        if self._by_iptables:
            lines = Rules(node).text(table).splitlines()
            return next((f"{table} {line.removeprefix('-A ')}" for line in lines if words in line), "")
        where = f"nftables {SPOKEN[node.family]} {NFT_TABLE}"
        found = (each for each in NftRules(node).texts() if (nft_words or words) in each)
        return next((f"{where} {each}" for each in found), "")


def _shown(virtual: Virtual) -> str:
    """Return a virtual server much as `ipvsadm -Ln` has it."""
    server = virtual.server
    key, sticky = server.key, f" persistent {server.affinity_seconds}" if server.affinity_seconds else ""
    if key.protocol is None:
        return f"IPVS FWM {server.scheduler}{sticky}, by the mark in set {set_name(key.family, Set.SHORT_CIRCUIT)}"
    address = ANY_NODE_ADDRESS if virtual.is_node_port else key.address
    bracketed = f"[{address}]" if ":" in address else address
    return f"IPVS {key.protocol} {bracketed}:{key.port} {server.scheduler}{sticky}"
