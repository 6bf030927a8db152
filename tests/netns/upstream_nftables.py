"""What kube-proxy 1.36 in nftables mode leaves on a node for the Services of a World: `nft` text.

Written from the description in reference/kube-proxy.md §3 (names, order and comments), independently of our own
layout: a chain for each Service port, maps of verdicts, a set of clients for each sticky endpoint. Node ports are
those of the node's primary address, upstream's default in this mode.
"""

import base64
from collections.abc import Iterator, Sequence
from hashlib import sha256

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.world import World
from tests.netns.upstream_ports import MARK, Node, Port, address_of, ports

TABLE = "kube-proxy"
_BIT = f"{int(MARK, 16):#x}"
_PLACE, _PORT = "{type} . inet_proto . inet_service", "inet_proto . inet_service"
_SETS = (
    ("set cluster-ips", "{type}", "Active ClusterIPs"),
    ("set nodeport-ips", "{type}", "IPs that accept NodePort traffic"),
    ("set hairpin-connections", "{type} . " + _PLACE, "service hairpin connections"),
    ("map service-ips", f"{_PLACE} : verdict", "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
    ("map service-nodeports", f"{_PORT} : verdict", "NodePort traffic"),
    ("map no-endpoint-services", f"{_PLACE} : verdict", "vmap to drop or reject packets to services"),
    ("map no-endpoint-nodeports", f"{_PORT} : verdict", "vmap to drop or reject packets to service nodeports"),
    ("map firewall-ips", f"{_PLACE} : verdict", "destinations that are subject to LoadBalancerSourceRanges"),
)
_BASES = (
    ("filter-prerouting-pre-dnat", "filter", "prerouting", -110, ("ct state new jump firewall-check",)),
    ("filter-output-pre-dnat", "filter", "output", -110, ("ct state new jump firewall-check",)),
    (
        "filter-input",
        "filter",
        "input",
        0,
        ("ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"),
    ),
    (
        "filter-forward",
        "filter",
        "forward",
        0,
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    (
        "filter-output",
        "filter",
        "output",
        0,
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    ("nat-prerouting", "nat", "prerouting", -100, ("jump services",)),
    ("nat-output", "nat", "output", -100, ("jump services",)),
    ("nat-postrouting", "nat", "postrouting", 100, ("jump masquerading",)),
)
_TO = "{ip} daddr . meta l4proto . th dport"
_FIXED = {
    "services": (
        "{ip} daddr @cluster-ips {ip} saddr != {pods} mark set mark or {bit} "
        'comment "masquerade clusterIP traffic from outside cluster"',
        f"{_TO} vmap @service-ips",
        "{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
    ),
    "masquerading": (
        "mark and {bit} != 0 mark set mark xor {bit} masquerade fully-random",
        "ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections masquerade "
        'fully-random comment "masquerade hairpin traffic"',
    ),
    "service-endpoints-check": (f"{_TO} vmap @no-endpoint-services",),
    "nodeport-endpoints-check": ("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",),
    "reject-chain": ("reject",),
    "firewall-check": (f"{_TO} vmap @firewall-ips",),
    "cluster-ips-check": (
        '{ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"',
    ),
}


def install(world: World, node: Node, service_ranges: Sequence[str] = ()) -> None:
    """Do kube-proxy's first sync, over whatever table of its name stands there (§3.7).

    ``service_ranges`` are the ServiceCIDRs of the node's family.
    """
    SystemExec().run(["nft", "-f", "-"], stdin=render(world, node, service_ranges))


def render(world: World, node: Node, service_ranges: Sequence[str] = ()) -> str:
    """Return the text of that, one transaction: what is not its own is left there, chains are made anew."""
    words = {
        "ip": _ip(node.family),
        "type": "ipv4_addr" if node.family is Family.V4 else "ipv6_addr",
        "pods": node.cluster_cidr,
        "bit": _BIT,
    }
    table = f"{words['ip']} {TABLE}"
    lines = [f'add table {table} {{ comment "rules for kube-proxy"; }}']
    for declared, kind, comment in _SETS:
        what, name = declared.split()
        lines.append(f'add {what} {table} {name} {{ type {kind.format(**words)}; comment "{comment}"; }}')
    rules = {name: [rule.format(**words) for rule in written] for name, written in _FIXED.items()}
    if service_ranges:
        unallocated = f"{words['ip']} daddr {{ {', '.join(service_ranges)} }} drop"
        rules["cluster-ips-check"].append(f'{unallocated} comment "Drop traffic to unallocated ClusterIPs"')
    for name, kind, hook, priority, jumps in _BASES:
        lines += [
            f"add chain {table} {name}",
            f"delete chain {table} {name}",
        ]  # its priority may have been another
        lines.append(f"add chain {table} {name} {{ type {kind} hook {hook} priority {priority}; }}")
        rules[name] = list(jumps)
    elements = [("nodeport-ips", node.ip)]
    for each in map(_Port, ports(world, node)):
        lines += [f"add set {table} {name} {{ {spec} }}" for name, spec in each.affinity_sets(words["type"])]
        rules.update(each.chains())
        elements += each.elements()
    bases = [base[0] for base in _BASES]
    for name in rules:
        lines += [] if name in bases else [f"add chain {table} {name}", f"flush chain {table} {name}"]
    lines += [f"add rule {table} {name} {rule}" for name, written in rules.items() for rule in written]
    lines += [f"add element {table} {name} {{ {each} }}" for name, each in dict.fromkeys(elements)]
    return "\n".join(lines) + "\n"


def base_name(name: ServicePortName, endpoint: str = "") -> str:
    """Return what the names of a Service port's chains end with, or of one of its endpoint's (§3.5)."""
    text = f"{name.namespace}/{name.name}/{name.protocol.lower()}/{name.port}"
    if endpoint:
        address, port = address_of(endpoint), endpoint.rpartition(":")[2]
        text += f"__{address.replace(':', '.')}/{port}"
    digest = base64.b32encode(sha256(text.encode()).digest()).decode()[:8]
    whole = f"{digest}-{text}"
    return whole if len(whole) <= 240 else whole[:237] + "..."


class _Port:
    """What one Service port adds (§3.6)."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._ip = _ip(port.node.family)
        base = base_name(port.name)
        self._service, self._local = f"service-{base}", f"local-{base}"
        self._external, self._firewall = f"external-{base}", f"firewall-{base}"
        self._verdict = "drop" if port.all else "goto reject-chain"

    def elements(self) -> Iterator[tuple[str, str]]:
        port = self._port
        place = f"{port.protocol} . {port.port.port}"
        why = f'comment "{port.name}" : {self._verdict}'
        outside = [*port.external_ips, *port.balancers]
        yield "cluster-ips", port.vip
        if port.has_internal:
            chain = self._local if port.internal_local else self._service
            yield "service-ips", f"{port.vip} . {place} : goto {chain}"
        else:
            yield "no-endpoint-services", f"{port.vip} . {place} {why}"
        for ip in outside if port.all else ():
            yield "service-ips", f"{ip} . {place} : goto {self._external}"
        for ip in outside if not port.has_external else ():
            yield "no-endpoint-services", f"{ip} . {place} {why}"
        for ip in port.balancers if port.ranges else ():
            yield "firewall-ips", f"{ip} . {place} : goto {self._firewall}"
        if port.port.node_port:
            own = f"{port.protocol} . {port.port.node_port}"
            if port.all:
                yield "service-nodeports", f"{own} : goto {self._external}"
            if not port.has_external:
                yield "no-endpoint-nodeports", f"{own} {why}"
        for text in port.reachable:
            if text in port.local:
                ip = address_of(text)
                yield "hairpin-connections", f"{ip} . {ip} . {port.protocol} . {text.rpartition(':')[2]}"

    def affinity_sets(self, kind: str) -> Iterator[tuple[str, str]]:
        service = self._port.service
        for text in self._port.reachable if service.session_affinity else ():
            spec = f"type {kind}; flags dynamic,timeout; timeout {service.affinity_seconds}s;"
            yield f"affinity-{base_name(self._port.name, text)}", spec

    def chains(self) -> dict[str, list[str]]:
        port = self._port
        found: dict[str, list[str]] = {}
        if port.uses_external:
            found[self._external] = list(self._external_rules())
        if port.balancers and port.ranges:
            allowed = port.ranges + (port.balancers if port.node_in_ranges else [])
            found[self._firewall] = [f"{self._ip} saddr != {{ {', '.join(allowed)} }} drop"]
        for wanted, chain, endpoints in (
            (port.uses_cluster, self._service, port.all),
            (port.uses_local, self._local, port.local),
        ):
            if wanted:
                sticky = port.service.session_affinity
                found[chain] = list(self._sticky(endpoints) if sticky else self._balance(endpoints))
        for text in port.reachable if port.service.session_affinity else ():
            name = base_name(port.name, text)
            found[f"endpoint-{name}"] = [
                f"update @affinity-{name} {{ {self._ip} saddr }}",
                f"meta l4proto {port.protocol} dnat to {text}",
            ]
        return found

    def _external_rules(self) -> Iterator[str]:
        port = self._port
        if port.external_local:
            pods = f"{self._ip} saddr {port.node.cluster_cidr}"
            yield f'{pods} goto {self._service} comment "short-circuit pod traffic"'
            yield f'fib saddr type local mark set mark or {_BIT} comment "masquerade local traffic"'
            yield f'fib saddr type local goto {self._service} comment "short-circuit local traffic"'
        else:
            yield f'mark set mark or {_BIT} comment "masquerade"'
        if port.has_external:
            yield f"goto {self._local if port.external_local else self._service}"

    def _balance(self, endpoints: list[str]) -> Iterator[str]:
        numbered = ", ".join(
            f"{i} : {address_of(text)} . {text.rpartition(':')[2]}" for i, text in enumerate(endpoints)
        )
        random = f"numgen random mod {len(endpoints)} map {{ {numbered} }}"
        yield f"meta l4proto {self._port.protocol} dnat {self._ip} addr . port to {random}"

    def _sticky(self, endpoints: list[str]) -> Iterator[str]:
        names = [base_name(self._port.name, text) for text in endpoints]
        for name in names:
            yield f"{self._ip} saddr @affinity-{name} goto endpoint-{name}"
        numbered = ", ".join(f"{i} : goto endpoint-{name}" for i, name in enumerate(names))
        yield f"numgen random mod {len(names)} vmap {{ {numbered} }}"


def _ip(family: Family) -> str:
    return "ip" if family is Family.V4 else "ip6"
