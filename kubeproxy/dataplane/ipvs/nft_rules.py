"""The fixed rules of ipvs mode as nftables commands, for a node without iptables. Pure.

They say what `rules.py` says, in a table of our own beside the sets. Where they differ: an `accept` there is the
last word, here it ends our own chain only, so a firewall of the administrator's must let in by itself what is for
Services. Base chains stand one before the usual priorities, as iptables mode's jumps stand at the head of a chain.
"""

from collections.abc import Iterator

from kubeproxy.dataplane.ipvs.names import NFT_TABLE, Set, set_name
from kubeproxy.kernel.nft_set_text import spoken
from kubeproxy.model.node import LocalKind, NodeState

CHAINS = {
    "ingress": ("type filter hook prerouting priority mangle - 1", "source ranges, short circuits, policies"),
    "egress": ("type route hook output priority mangle - 1", "the same for what this node itself sends"),
    "nat-prerouting": ("type nat hook prerouting priority dstnat - 1", "who is to be masqueraded"),
    "nat-output": ("type nat hook output priority -101", "the same for what this node itself sends"),
    "nat-postrouting": ("type nat hook postrouting priority srcnat - 1", "masquerading"),
    "filter-input": ("type filter hook input priority filter - 1", "what of a virtual address may be spoken to"),
    "filter-output": ("type filter hook output priority filter - 1", "the same for this node itself"),
    "filter-forward": ("type filter hook forward priority filter - 1", "what is sent on"),
}
"""Base chains: type, hook and priority of each, and what it decides."""

_PLACE = "meta l4proto . th dport"


class NftRules:
    """The rules for one node and one family."""

    def __init__(self, node: NodeState, *, drop_invalid: bool = True, table: str = NFT_TABLE) -> None:
        """See the class."""
        self._table = table
        self._node = node
        self._drop_invalid = drop_invalid
        self._mark = f"{node.mark:#010x}"
        self._ip = spoken(node.family)
        self._place = f"{self._ip} daddr . {_PLACE}"

    def text(self) -> str:
        """Return the commands that write all chains anew; their sets must be there."""
        where = f"{self._ip} {self._table}"
        lines = []
        for name, (hook, comment) in CHAINS.items():
            lines.append(f'add chain {where} {name} {{ {hook} ; policy accept ; comment "{comment}" ; }}')
            lines.append(f"flush chain {where} {name}")
        lines += [f"add rule {where} {rule}" for rule in self.rules()]
        return "\n".join(lines) + "\n"

    def rules(self) -> Iterator[str]:
        """Yield all rules, each with its chain before it."""
        yield from self._guard("ingress")
        yield from self._guard("egress")
        yield from self._nat("nat-prerouting")
        yield from self._nat("nat-output")
        yield from self._postrouting()
        yield from self._input()
        yield from self._output()
        yield from self._forward()

    def _at(self, which: Set, *, without: bool = False) -> str:
        """Match a packet to a place that is in a set."""
        return f"{self._place} {'!= ' if without else ''}@{set_name(self._node.family, which)}"

    def _address(self, direction: str) -> str:
        return f"{self._ip} {direction} @{set_name(self._node.family, Set.ADDRESSES)}"

    def _short_circuit(self) -> str:
        """Give a packet its mark where there is one for its place; else the rule ends here."""
        return f"meta mark set {self._place} map @{set_name(self._node.family, Set.SHORT_CIRCUIT)}"

    def _pods(self, *, strangers: bool = False) -> str | None:
        """Match packets of this cluster's pods, or of all others; None when nobody can tell."""
        local, sign = self._node.local, "!= " if strangers else ""
        match local.kind:
            case LocalKind.NONE:
                return None
            case LocalKind.SOURCE:
                return f"{self._ip} saddr {sign}{local.value} "
            case LocalKind.INTERFACE:
                return f'iifname {sign}"{local.value}" '
            case LocalKind.PREFIX:
                return f'iifname {sign}"{local.value}*" '

    def _guard(self, chain: str) -> Iterator[str]:
        admitted = f"{self._place} . {self._ip} saddr != @{set_name(self._node.family, Set.ADMITTED)}"
        yield f"{chain} {self._at(Set.SERVERS, without=True)} return"
        yield f"{chain} ct state new {self._at(Set.GUARDED)} {admitted} counter drop"
        if chain == "egress":
            yield f"{chain} {self._short_circuit()} return"
        elif (pods := self._pods()) is not None:
            yield f"{chain} {pods}{self._short_circuit()} return"
        yield f"{chain} ct state new {self._at(Set.NO_LOCAL)} counter drop"

    def _nat(self, chain: str) -> Iterator[str]:
        masquerade = f"meta mark set meta mark | {self._mark}"
        yield f"{chain} {self._at(Set.SERVERS, without=True)} return"
        strangers = "" if self._node.masquerade_all else self._pods(strangers=True)
        if strangers and chain == "nat-output" and "iifname" in strangers:
            strangers = ""  # what the node itself sends comes in by no interface
        if strangers is not None:
            yield f"{chain} {strangers}{self._at(Set.CLUSTER_IP)} {masquerade}"
        yield f"{chain} {self._at(Set.MASQUERADE)} {masquerade}"
        # A map cannot be a condition, so the mark is given again, and the masquerade bit beside it.
        yield f"{chain} fib saddr type local {self._short_circuit()} {masquerade}"
        yield f"{chain} {self._address('saddr')} {masquerade}"
        # IPVS comes later, so nobody else's rule may translate the packet first: a connection is translated once,
        # and this leaves its destination as it is.
        yield f"{chain} dnat to {self._ip} daddr"

    def _postrouting(self) -> Iterator[str]:
        chain, mark = "nat-postrouting", self._mark
        loop_back = f"{self._place} . {self._ip} saddr @{set_name(self._node.family, Set.LOOP_BACK)}"
        yield f"{chain} fib saddr type != local {loop_back} masquerade fully-random"
        yield f"{chain} meta mark & {mark} == 0 return"
        # The mark goes, lest a packet that passes the stack again (a VXLAN's) be masqueraded twice.
        yield f"{chain} meta mark set meta mark ^ {mark}"
        yield f"{chain} masquerade fully-random"

    def _input(self) -> Iterator[str]:
        chain, mark = "filter-input", self._mark
        yield f"{chain} tcp dport @{set_name(self._node.family, Set.HEALTH_CHECKS)} accept"
        yield f"{chain} ct state new {self._at(Set.NO_ENDPOINTS)} counter reject"
        yield f"{chain} meta mark & {mark} == {mark} {self._at(Set.SERVERS)} accept"
        yield f"{chain} ct state established,related {self._at(Set.SERVERS)} accept"
        yield f"{chain} {self._at(Set.SERVERS)} return"
        yield f"{chain} ct state new {self._address('daddr')} counter reject"

    def _output(self) -> Iterator[str]:
        # What is for a virtual server was sent on by IPVS before it gets here.
        yield f"filter-output ct state new {self._address('daddr')} counter reject"
        yield from self._unallocated("filter-output")

    def _forward(self) -> Iterator[str]:
        chain, mark = "filter-forward", self._mark
        if self._drop_invalid:
            # A packet outside the window is not translated back; its sender would be reset by the client.
            yield f"{chain} ct state invalid counter drop"
        yield f"{chain} meta mark & {mark} == {mark} accept"
        yield f"{chain} ct state established,related accept"
        yield from self._unallocated(chain)

    def _unallocated(self, chain: str) -> Iterator[str]:
        for cidr in self._node.service_cidrs:
            yield f"{chain} ct state new {self._ip} daddr {cidr} counter drop"
