"""ServiceState → Fragment: the rules of one Service port, as restore text. Pure.

The layout is lean (README.md has the picture and the measurements): a Service's chain holds its DNAT rules
itself, endpoints get chains of their own only where affinity must remember them, hairpin traffic is matched
by one ipset for all, and a Service carries one comment, not one a rule.

Cost: 6 µs for a Service of three endpoints.
"""

import re
from collections.abc import Sequence

from kubeproxy.dataplane.iptables import names
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.node import LocalKind, NodeState
from kubeproxy.model.objects import Protocol, Record

LINEAR_MAX = 100
"""More endpoints than this are split into a tree: a chain of n rules costs each connection n/2 random draws."""
FAN_OUT = 16
ENDPOINTS_MAX = 100_000
"""No cluster has that many; one hostile Service must fill neither the table nor `names.part_chain`'s numbers."""

_SAFE = re.compile(r"[a-z0-9][a-z0-9./:-]{0,240}", re.ASCII)
_PROBABILITY = tuple(f"{1 / n:.10f}" if n else "" for n in range(LINEAR_MAX + 1))


class Unrenderable(ValueError):
    """A port that must not become rules: too large, or its name is none (`decode` should have refused it)."""


class Fragment(Record, frozen=True, kw_only=True):
    """One Service port in iptables' words."""

    chains: tuple[str, ...]
    """Its own chains in the nat table."""
    body: str
    """The lines that make and fill them."""
    nat_rules: tuple[str, ...]
    """Rules that lead to them from shared chains."""
    filter_rules: tuple[str, ...]
    """Its rules in the filter table."""


NOTHING = Fragment(chains=(), body="", nat_rules=(), filter_rules=())


class Renderer:
    """Renders for one node and one family."""

    def __init__(self, node: NodeState) -> None:
        self._bits = node.family.host_bits
        cidr = node.local.value if node.local.kind is LocalKind.SOURCE else ""
        if node.masquerade_all:
            self._cluster_source: str | None = ""
        else:
            self._cluster_source = f"! -s {cidr} " if cidr else None

    def render(self, state: ServiceState) -> Fragment:
        """Render one port. Raises Unrenderable."""
        label = _checked(state)
        if not state.cluster:
            return Fragment(chains=(), body="", nat_rules=(), filter_rules=self._refusals(state, label))
        suffix = names.port_hash(state.name)
        service = names.SERVICE_PREFIX + suffix
        protocol = names.LOWER[state.name.protocol]
        chains, lines = [service], [f":{service} - [0:0]\n"]
        if self._cluster_source is not None:
            vip = f"-d {state.cluster_ip}/{self._bits}"
            lines.append(f"-A {service} {self._cluster_source}{vip} -j {names.MARK_MASQ}\n")
        if state.affinity_seconds:
            _choose_with_affinity(state, service, protocol, chains, lines)
        else:
            _choose(service, protocol, state.cluster, chains, lines)
        match = self._match(state.cluster_ip, protocol, state.port)
        rules = [f'{names.SERVICES} {match} -m comment --comment "{label} cluster IP" -j {service}']
        refused: tuple[str, ...] = ()
        if state.is_external:
            refused = self._expose(state, suffix, label, chains, lines, rules)
        return Fragment(chains=tuple(chains), body="".join(lines), nat_rules=tuple(rules), filter_rules=refused)

    def _match(self, address: str, protocol: str, port: int) -> str:
        return f"-d {address}/{self._bits} -p {protocol} -m {protocol} --dport {port}"

    def _expose(
        self, state: ServiceState, suffix: str, label: str, chains: list[str], lines: list[str], rules: list[str]
    ) -> tuple[str, ...]:
        """Add the ways in from outside the cluster; return the filter rules that they need."""
        protocol = names.LOWER[state.name.protocol]
        external = names.EXTERNAL_PREFIX + suffix
        chains.append(external)
        lines.append(
            f":{external} - [0:0]\n-A {external} -j {names.MARK_MASQ}\n"
            f"-A {external} -j {names.SERVICE_PREFIX}{suffix}\n"
        )
        for ip in state.external_ips:
            rules.append(f"{names.SERVICES} {self._match(ip, protocol, state.port)} -j {external}")
        if state.node_port:
            rules.append(f"{names.NODEPORTS} -p {protocol} -m {protocol} --dport {state.node_port} -j {external}")
        entrance, refused = external, NOTHING.filter_rules
        if state.source_ranges and state.load_balancer_ips:
            entrance = names.FIREWALL_PREFIX + suffix
            chains.append(entrance)
            lines.append(self._admission(state, entrance, external))
            refused = self._unadmitted(state, entrance, label)
        for ip in state.load_balancer_ips:
            rules.append(f"{names.SERVICES} {self._match(ip, protocol, state.port)} -j {entrance}")
        return refused

    def _admission(self, state: ServiceState, chain: str, external: str) -> str:
        lines = [f":{chain} - [0:0]\n"]
        lines += [f"-A {chain} -s {cidr} -j {external}\n" for cidr in state.source_ranges]
        if state.node_in_ranges:
            # The node speaks to a load balancer address that it holds itself from that very address.
            lines += [f"-A {chain} -s {ip}/{self._bits} -j {external}\n" for ip in state.load_balancer_ips]
        return "".join(lines)

    def _unadmitted(self, state: ServiceState, chain: str, label: str) -> tuple[str, ...]:
        why = f'-m comment --comment "{label} traffic not accepted by {chain}" -j DROP'
        protocol = names.LOWER[state.name.protocol]
        return tuple(
            f"{names.PROXY_FIREWALL} {self._match(ip, protocol, state.port)} {why}"
            for ip in state.load_balancer_ips
        )

    def _refusals(self, state: ServiceState, label: str) -> tuple[str, ...]:
        """Return what tells a client at once that there is nobody, instead of letting it time out."""
        protocol = names.LOWER[state.name.protocol]
        why = f'-m comment --comment "{label} has no endpoints" -j REJECT'
        outside = (*state.external_ips, *state.load_balancer_ips)
        rules = [f"{names.SERVICES} {self._match(state.cluster_ip, protocol, state.port)} {why}"]
        rules += [f"{names.EXTERNAL_SERVICES} {self._match(ip, protocol, state.port)} {why}" for ip in outside]
        if state.node_port:
            match = f"-p {protocol} -m addrtype --dst-type LOCAL -m {protocol} --dport {state.node_port}"
            rules.append(f"{names.EXTERNAL_SERVICES} {match} {why}")
        return tuple(rules)


def local_targets(state: ServiceState) -> list[tuple[str, Protocol, int]]:
    """Return the hairpin set's entries for a port: address, protocol, port."""
    protocol = state.name.protocol
    return [(each.address, protocol, each.port) for each in state.reachable if each.may_be_local]


def _checked(state: ServiceState) -> str:
    label = str(state.name)
    if _SAFE.fullmatch(label) is None:
        raise Unrenderable(f"{label[:80]!r} is no name of a Service port")
    if len(state.cluster) > ENDPOINTS_MAX:
        raise Unrenderable(f"{len(state.cluster)} endpoints are more than the {ENDPOINTS_MAX} that rules are for")
    return label


def _choose(chain: str, protocol: str, targets: Sequence[Target], chains: list[str], lines: list[str]) -> None:
    """Fill a chain so that each target is taken with the same probability."""
    if len(targets) > LINEAR_MAX:
        _branch(chain, protocol, targets, chains, lines)
        return
    head = f"-A {chain} -p {protocol} -m statistic --mode random --probability "
    left = len(targets)
    for target in targets[:-1]:
        lines.append(f"{head}{_PROBABILITY[left]} -j DNAT --to-destination {target.text}\n")
        left -= 1
    lines.append(f"-A {chain} -p {protocol} -j DNAT --to-destination {targets[-1].text}\n")


def _branch(chain: str, protocol: str, targets: Sequence[Target], chains: list[str], lines: list[str]) -> None:
    """Split the targets over chains of chains; part i is taken with its share of what remains."""
    root = chains[0]
    size = -(-len(targets) // FAN_OUT)
    remaining = len(targets)
    for start in range(0, len(targets), size):
        part = targets[start : start + size]
        branch = names.part_chain(root, len(chains))
        chains.append(branch)
        lines.append(f":{branch} - [0:0]\n")
        _choose(branch, protocol, part, chains, lines)
        share = "" if len(part) == remaining else _statistic(len(part) / remaining)
        lines.append(f"-A {chain} {share}-j {branch}\n")
        remaining -= len(part)


def _statistic(probability: float) -> str:
    return f"-m statistic --mode random --probability {probability:.10f} "


def _choose_with_affinity(
    state: ServiceState, chain: str, protocol: str, chains: list[str], lines: list[str]
) -> None:
    """Send a client to the endpoint that it had; xt_recent remembers, one list an endpoint."""
    seconds = state.affinity_seconds
    returning, first = [], []
    left = len(state.cluster)
    for target in state.cluster:
        own = names.endpoint_chain(state.name, target.text)
        chains.append(own)
        lines.append(
            f":{own} - [0:0]\n"
            f"-A {own} -p {protocol} -m recent --name {own} --set -j DNAT --to-destination {target.text}\n"
        )
        returning.append(f"-A {chain} -m recent --name {own} --rcheck --seconds {seconds} --reap -j {own}\n")
        first.append(f"-A {chain} {_statistic(1 / left) if left > 1 else ''}-j {own}\n")
        left -= 1
    lines += returning
    lines += first
