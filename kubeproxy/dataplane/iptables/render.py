"""ServiceState → Fragment: the rules of one Service port, as restore text. Pure.

The layout is lean (README.md has the picture and the measurements): a Service's chain holds its DNAT rules
itself, endpoints get chains of their own only where affinity must remember them, hairpin traffic is matched
by one ipset for all, and a Service carries one comment, not one a rule. Which endpoints a client may have is
decided in the model; here that becomes rules.

Cost: 7 µs for a Service of three endpoints; to and fro with other work, half as much again. Of a large Service,
whose endpoints come in runs, only those runs cost more than a look that have changed (`pages.py`); with affinity
all endpoints do.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from kubeproxy.dataplane.iptables import dispatch, names
from kubeproxy.dataplane.iptables.choose import CHANCES, LINEAR_MAX, choose
from kubeproxy.dataplane.iptables.dispatch import Rule, Shared
from kubeproxy.dataplane.iptables.matches import nodeport_matches, pod_matches
from kubeproxy.dataplane.iptables.pages import Page, Way, spread
from kubeproxy.dataplane.iptables.places import address_digits, port_digits
from kubeproxy.model.desired import Refusal, ServiceState, Target
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Protocol, Record
from kubeproxy.model.runs import in_runs

ENDPOINTS_MAX = 100_000
"""No cluster has that many; one hostile Service must fill neither the table nor `names.part_chain`'s numbers."""

STICKY_MAX = 10_000
"""With affinity: each endpoint has a set, of which `clients.MOST` are there for all."""

LABEL_MAX = 180
"""A comment has 255 characters; the longest has 52 beside the label, and a hash ends a label that is cut."""

_SAFE = re.compile(r"[a-z0-9][a-z0-9./:-]*", re.ASCII)
_REASONS = {Refusal.REJECT: "has no endpoints", Refusal.DROP: "has no local endpoints"}
_TRANSLATE = "-j DNAT --to-destination "
_UNTRANSLATED = "-j ACCEPT"
"""For what is to be refused: it would else go on, and where the address is the node's be some node port's."""


class Unrenderable(ValueError):
    """A port that must not become rules: too large, or its name is none (`decode` should have refused it)."""


class Fragment(Record, frozen=True, kw_only=True):
    """One Service port in iptables' words."""

    chains: tuple[str, ...]
    """Its own chains in the nat table, but for those of pages."""
    body: str
    """The lines that make and fill them."""
    pages: tuple[Page, ...] = ()
    """The chains that choose among a large Service's endpoints. Others lead to them, so they are made first."""
    nat_rules: tuple[Rule, ...]
    """Rules that lead to them from shared chains."""
    filter_rules: tuple[Rule, ...]
    """Its rules in the filter table, all in shared chains."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All that it has in shared chains."""
        return self.nat_rules + self.filter_rules

    @property
    def every_chain(self) -> tuple[str, ...]:
        """Return all its own chains."""
        return (
            (*self.chains, *[each for page in self.pages for each in page.chains]) if self.pages else self.chains
        )

    @property
    def text(self) -> str:
        """Return the lines that make and fill all its own chains."""
        return "".join([*[page.text for page in self.pages], self.body]) if self.pages else self.body


NOTHING = Fragment(chains=(), body="", nat_rules=(), filter_rules=())


class Renderer:
    """Renders for one node and one family."""

    def __init__(self, node: NodeState) -> None:
        self._bits = node.family.host_bits
        self._pods, strangers = pod_matches(node.local)
        self._masqueraded = "" if node.masquerade_all else strangers or None
        """Whose traffic to a cluster IP is masqueraded; None is nobody's."""
        self._nodeports = nodeport_matches(node)

    def render(self, state: ServiceState) -> Fragment:
        """Render one port. Raises Unrenderable."""
        return self._plain(state) if _is_plain(state) else self.in_general(state)

    def in_general(self, state: ServiceState) -> Fragment:
        """Render a port with whatever it has. Raises Unrenderable."""
        _check_size(state)
        port = _Port(state, self._bits)
        if state.cluster_ip:
            self._inside(port)
        if state.is_external:
            self._outside(port)
        if state.health_check_node_port:
            check = state.health_check_node_port
            port.filter_rules.append(
                Rule(
                    dispatch.HEALTH_CHECKS,
                    f"{port_digits(Protocol.TCP, check)} -p tcp -m tcp --dport {check} "
                    f'-m comment --comment "{port.label} health check node port" -j ACCEPT',
                )
            )
        return Fragment(
            chains=tuple(port.chains),
            body="".join(port.lines),
            pages=tuple(port.pages),
            nat_rules=tuple(port.nat_rules),
            filter_rules=tuple(port.filter_rules),
        )

    def _plain(self, state: ServiceState) -> Fragment:
        """Return what `in_general` would, put together at once: nearly all ports are plain, and this is faster."""
        label, suffix, protocol, digits, match = _words(state)
        chain, ip, bits = names.SERVICE_PREFIX + suffix, state.cluster_ip, self._bits
        lines = [f":{chain} - [0:0]\n"]
        if self._masqueraded is not None:
            lines.append(f"-A {chain} {self._masqueraded}-d {ip}/{bits} -j {names.MARK_MASQ}\n")
        rule = f"-A {chain} -p {protocol} "
        for chance, target in zip(CHANCES[len(state.cluster)], state.cluster, strict=True):
            lines.append(f"{rule}{chance}{_TRANSLATE}{target.text}\n")
        to_chain = f'{match} -m comment --comment "{label} cluster IP" -j {chain}'
        leading = Rule(dispatch.SERVICES, f"{_place(ip)}{digits} -d {ip}/{bits} {to_chain}")
        return Fragment(chains=(chain,), body="".join(lines), nat_rules=(leading,), filter_rules=())

    def _inside(self, port: "_Port") -> None:
        """Write the way to the cluster IP."""
        state = port.state
        targets = state.internal
        if not targets:
            # Without endpoints anywhere it is refused like a port that no Service has, by one rule for all: a new
            # Service mostly is so for a moment, and a rule of its own would be one more commit, twice.
            if state.internal_refusal is Refusal.DROP:
                port.filter_rules.append(port.at(dispatch.ELSEWHERE, state.cluster_ip, port.why(Refusal.DROP)))
            return
        chain = port.service_chain(local=state.internal_local)
        mark = ""
        if self._masqueraded is not None:
            mark = f"-A {chain} {self._masqueraded}-d {state.cluster_ip}/{self._bits} -j {names.MARK_MASQ}\n"
        port.fill(chain, targets, mark)
        end = f'-m comment --comment "{port.label} cluster IP" -j {chain}'
        port.nat_rules.append(port.at(dispatch.SERVICES, state.cluster_ip, end))

    def _outside(self, port: "_Port") -> None:
        """Write the ways from outside the cluster: external and load balancer addresses, node ports."""
        state = port.state
        refusal = state.external_refusal
        guarded = bool(state.source_ranges and state.load_balancer_ips)
        firewall = names.FIREWALL_PREFIX + port.suffix
        if refusal:
            self._refuse(port, refusal)
        if refusal is not Refusal.REJECT:
            external = self._external_chain(port)
            entrance = external
            if guarded:
                entrance = firewall
                port.chains.append(firewall)
                port.lines.append(f":{firewall} - [0:0]\n")
                port.lines += [
                    f"-A {firewall} -s {source} -j {external}\n"
                    for source in self._admitted(state, state.load_balancer_ips)
                ]
                port.lines.append(f"-A {firewall} {_UNTRANSLATED}\n")
            port.nat_rules += [port.at(dispatch.SERVICES, ip, f"-j {external}") for ip in state.external_ips]
            if state.node_port:
                port.nat_rules.append(port.at_node_port(dispatch.NODEPORTS, f"-j {external}"))
            port.nat_rules += [port.at(dispatch.SERVICES, ip, f"-j {entrance}") for ip in state.load_balancer_ips]
        else:
            for ip in (*state.external_ips, *state.load_balancer_ips):
                port.nat_rules.append(port.at(dispatch.SERVICES, ip, _UNTRANSLATED))
        if guarded:
            self._guard(port, firewall, refusal)

    def _external_chain(self, port: "_Port") -> str:
        """Write the chain that all traffic to external addresses passes; return its name."""
        state = port.state
        chain = names.EXTERNAL_PREFIX + port.suffix
        cluster = port.service_chain(local=False)
        if state.cluster:
            port.fill(cluster, state.cluster)
        if state.external_local and state.local:
            port.fill(port.service_chain(local=True), state.local)
        port.chains.append(chain)
        port.lines.append(f":{chain} - [0:0]\n")
        if not state.external_local:
            port.lines.append(f"-A {chain} -j {names.MARK_MASQ}\n-A {chain} -j {cluster}\n")
            return chain
        if state.cluster:
            # Pods and the node itself are no traffic from outside: for them the policy is Cluster.
            if self._pods:
                port.lines.append(f"-A {chain} {self._pods}-j {cluster}\n")
            own = "-m addrtype --src-type LOCAL"
            port.lines.append(f"-A {chain} {own} -j {names.MARK_MASQ}\n-A {chain} {own} -j {cluster}\n")
        way = f"-j {port.service_chain(local=True)}" if state.local else _UNTRANSLATED
        port.lines.append(f"-A {chain} {way}\n")
        return chain

    def _admitted(self, state: ServiceState, ips: Sequence[str]) -> Sequence[str]:
        """Return who may come through some of the load balancer's addresses."""
        if not state.node_in_ranges:
            return state.source_ranges
        # The node speaks to a load balancer address that it holds itself from that very address.
        return (*state.source_ranges, *[f"{ip}/{self._bits}" for ip in ips])

    def _guard(self, port: "_Port", firewall: str, refusal: Refusal | None) -> None:
        """Drop what no source range admitted; it is still addressed to the load balancer's address.

        Where nobody is there, nothing was let through before: who is admitted goes on to be refused.
        """
        state = port.state
        for ip in state.load_balancer_ips:
            why = f'-m comment --comment "{port.label} traffic not accepted by {firewall}"'
            port.filter_rules.append(port.at(dispatch.FIREWALL, ip, f"{why} -j DROP"))
            if refusal is Refusal.REJECT:
                why = f'-m comment --comment "{port.label} traffic accepted"'
                port.filter_rules += [
                    port.at(dispatch.FIREWALL, ip, f"{why} -j RETURN", source=f"-s {source} ")
                    for source in self._admitted(state, (ip,))
                ]

    def _refuse(self, port: "_Port", refusal: Refusal) -> None:
        """Refuse or drop traffic from outside that no endpoint may have."""
        state, why = port.state, port.why(refusal)
        for ip in (*state.external_ips, *state.load_balancer_ips):
            port.filter_rules.append(port.at(dispatch.EXTERNAL, ip, why))
        if state.node_port:
            port.filter_rules += [
                port.at_node_port(dispatch.EXTERNAL_PORTS, why, where, "-m addrtype --dst-type LOCAL ")
                for where in self._nodeports
            ]


class _Port:
    """One Service port, and the lines about it as they are being written. Raises Unrenderable."""

    __slots__ = (
        "_bits",
        "_digits",
        "_match",
        "chains",
        "filter_rules",
        "label",
        "lines",
        "nat_rules",
        "pages",
        "protocol",
        "state",
        "suffix",
    )

    def __init__(self, state: ServiceState, bits: int) -> None:
        self.state = state
        self.label, self.suffix, self.protocol, self._digits, self._match = _words(state)
        self._bits = bits
        self.chains: list[str] = []
        self.lines: list[str] = []
        self.pages: list[Page] = []
        self.nat_rules: list[Rule] = []
        self.filter_rules: list[Rule] = []

    def at(self, shared: Shared, address: str, end: str, *, source: str = "") -> Rule:
        """Return a rule about one of the port's addresses."""
        place = f"{_place(address)}{self._digits}"
        return Rule(shared, f"{place} {source}-d {address}/{self._bits} {self._match} {end}")

    def at_node_port(self, shared: Shared, end: str, where: str = "", local: str = "") -> Rule:
        """Return a rule about the node port; ``where`` and ``local`` are further matches."""
        protocol, port = self.protocol, self.state.node_port
        place = port_digits(self.state.name.protocol, port)
        return Rule(shared, f"{place} {where}-p {protocol} {local}-m {protocol} --dport {port} {end}")

    def service_chain(self, *, local: bool) -> str:
        """Return the name of the chain that chooses among the cluster's or this node's endpoints."""
        return (names.LOCAL_PREFIX if local else names.SERVICE_PREFIX) + self.suffix

    def why(self, refusal: Refusal) -> str:
        """Return the end of a rule that refuses."""
        return f'-m comment --comment "{self.label} {_REASONS[refusal]}" -j {refusal}'

    def fill(self, chain: str, targets: Sequence[Target], first: str = "") -> None:
        """Write a chain that chooses among targets, unless it has been written."""
        if chain in self.chains:
            return
        self.chains.append(chain)
        self.lines.append(f":{chain} - [0:0]\n{first}")
        if self.state.affinity_seconds:
            self._remember(chain, targets)
            return
        match = f"-p {self.protocol} "
        if in_runs(targets) and len(targets) > LINEAR_MAX and len(targets.runs) > 1:
            self.pages += spread(Way(chain, match, _TRANSLATE), targets, self.chains, self.lines)
        else:
            ends = [target.text for target in targets]
            choose(chain, match, _TRANSLATE, ends, self.chains, self.lines)

    def _remember(self, chain: str, targets: Sequence[Target]) -> None:
        """Send a client to the endpoint that it had; a set an endpoint remembers (clients.py)."""
        seconds = self.state.affinity_seconds
        ends, returning = [], []
        known = set(self.chains)
        for target in targets:
            own = names.endpoint_chain(self.state.name, target.text)
            ends.append(own)
            returning.append(f"-A {chain} -m set --match-set {own} src -j {own}\n")
            if own not in known:  # the other policy's chain may have it already
                self.chains.append(own)
                self.lines.append(
                    f":{own} - [0:0]\n-A {own} -j SET --add-set {own} src --exist --timeout {seconds}\n"
                    f"-A {own} -p {self.protocol} -j DNAT --to-destination {target.text}\n"
                )
        self.lines += returning
        choose(chain, "", "-j ", ends, self.chains, self.lines)


def _is_plain(state: ServiceState) -> bool:
    """Return whether a port has a cluster IP, a few endpoints and nothing else."""
    return (
        0 < len(state.cluster) <= LINEAR_MAX
        and state.cluster_ip != ""
        and not (state.node_port or state.external_ips or state.load_balancer_ips)
        and not (state.affinity_seconds or state.internal_local or state.health_check_node_port)
    )


def _place(address: str) -> str:
    try:
        return address_digits(address)
    except ValueError as error:
        raise Unrenderable(str(error)) from error


def _words(state: ServiceState) -> tuple[str, str, str, str, str]:
    """Return how a port is called and its hash, then the protocol's name, the port's digits and its match."""
    name = str(state.name)
    if _SAFE.fullmatch(name) is None:
        raise Unrenderable(f"{name[:80]!r} is no name of a Service port")
    protocol, digits, match = _port_words(state.name.protocol, state.port)
    suffix = names.hash16(name + protocol)  # names.port_hash, whose texts are at hand
    label = name if len(name) <= LABEL_MAX else f"{name[:LABEL_MAX]}~{suffix}"
    return label, suffix, protocol, digits, match


@lru_cache(maxsize=1024)
def _port_words(protocol: Protocol, port: int) -> tuple[str, str, str]:
    """Return what many Service ports have in common."""
    name = names.LOWER[protocol]
    return name, port_digits(protocol, port), f"-p {name} -m {name} --dport {port}"


def _check_size(state: ServiceState) -> None:
    most, why = (
        (STICKY_MAX, "can remember clients") if state.affinity_seconds else (ENDPOINTS_MAX, "rules are for")
    )
    if len(state.cluster) > most or len(state.local) > most:
        count = max(len(state.cluster), len(state.local))
        raise Unrenderable(f"{count} endpoints are more than the {most} that {why}")
