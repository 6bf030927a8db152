"""What kube-proxy 1.36 in iptables mode, and a kubelet, leave on a node for the Services of a World.

Written from the description in reference/kube-proxy.md §1 (order, comments and all), independently of our own
renderer and of our model's decisions; only the hash in chain names is shared, which has upstream's vectors.
"""

from collections.abc import Iterator

from kubeproxy.dataplane.iptables.names import (
    COUNTERS,
    CT_INVALID_COUNTER,
    LOCALHOST_NODEPORTS_COUNTER,
    endpoint_chain,
    port_hash,
)
from kubeproxy.kernel.iptables import Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.model.addresses import Family
from kubeproxy.model.world import World
from tests.netns.upstream_ports import MARK, Node, Port, address_of, ports

_NEW = "-m conntrack --ctstate NEW "

JUMPS = (
    ("filter", "INPUT", "KUBE-EXTERNAL-SERVICES", _NEW, "kubernetes externally-visible service portals"),
    ("filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", _NEW, "kubernetes externally-visible service portals"),
    ("filter", "INPUT", "KUBE-NODEPORTS", "", "kubernetes health check service ports"),
    ("filter", "FORWARD", "KUBE-SERVICES", _NEW, "kubernetes service portals"),
    ("filter", "OUTPUT", "KUBE-SERVICES", _NEW, "kubernetes service portals"),
    ("filter", "FORWARD", "KUBE-FORWARD", "", "kubernetes forwarding rules"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("filter", "OUTPUT", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("nat", "OUTPUT", "KUBE-SERVICES", "", "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", "", "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", "", "kubernetes postrouting rules"),
    ("filter", "INPUT", "KUBE-FIREWALL", "", ""),
    ("filter", "OUTPUT", "KUBE-FIREWALL", "", ""),
)
SERVICE_CHAINS = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
KUBELET_CHAINS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-FIREWALL")


def install_kubelet(tables: Iptables) -> None:
    """Make what a kubelet makes; it is in nobody's way and must outlive every proxy."""
    martians = ""
    if tables.family is Family.V4:
        martians = (
            '-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet '
            'connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n'
        )
    tables.restore(
        "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
        "*nat\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
        f"*filter\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-FIREWALL - [0:0]\n{martians}COMMIT\n"
    )
    _ensure(tables, [jump for jump in JUMPS if jump[2] == "KUBE-FIREWALL"])


def install(tables: Iptables, world: World, node: Node) -> None:
    """Do what kube-proxy's full sync does, its start included; also over what somebody else left."""
    for table in ("mangle", "nat", "filter"):
        tables.run("-t", table, "-N", "KUBE-PROXY-CANARY", check=False)
    for name in COUNTERS:
        Nfacct().ensure(name)
    _ensure(tables, JUMPS)
    saved = tables.save("nat").splitlines()
    found = {line[1:].partition(" ")[0] for line in saved if line.startswith(":")}
    tables.restore(render(world, node, {chain for chain in found if chain.startswith(SERVICE_CHAINS)}))


def _ensure(tables: Iptables, jumps: "list[tuple[str, ...]] | tuple[tuple[str, ...], ...]") -> None:
    for table, chain, target, match, comment in jumps:
        tables.run("-t", table, "-N", target, check=False)
        why = ("-m", "comment", "--comment", comment) if comment else ()
        rule = (chain, *match.split(), *why, "-j", target)
        if tables.run("-t", table, "-C", *rule, check=False).status:
            tables.run("-t", table, "-I", *rule)


def render(world: World, node: Node, found: "set[str] | frozenset[str]" = frozenset()) -> str:
    """Return kube-proxy's restore text; ``found`` are Service chains that stand, to delete what is stale."""
    rules = _Rules(node)
    for port in ports(world, node):
        rules.add(port)
    return rules.text(found)


class _Rules:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._chains: list[str] = []
        self._services: list[str] = []
        self._nodeports: list[str] = []
        self._own: list[str] = []
        self._filter: list[str] = []

    def text(self, found: "set[str] | frozenset[str]") -> str:
        stale = sorted(found.difference(self._chains))
        fixed = [
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-FORWARD",
            "KUBE-NODEPORTS",
            "KUBE-PROXY-FIREWALL",
        ]
        v4 = self._node.family is Family.V4
        lines = ["*filter", *(_declare(chain) for chain in [*fixed, *(["KUBE-FIREWALL"] if v4 else [])])]
        lines += self._filter + list(self._fixed_filter())
        lines += ["COMMIT", "*nat"]
        lines += [_declare(c) for c in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")]
        lines += [_declare(chain) for chain in self._chains + stale]
        lines += list(_fixed_nat()) + self._services + self._nodeports + self._own
        lines += [f"-X {chain}" for chain in stale]
        skip = "" if v4 else "! -d ::1/128 "
        lines += [
            f"-A KUBE-SERVICES {skip}"
            '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" '
            "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
            "COMMIT",
        ]
        return "\n".join(lines) + "\n"

    def _fixed_filter(self) -> Iterator[str]:
        if self._node.family is Family.V4:
            yield (
                '-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 '
                "! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
            )
        counted = f"-m nfacct --nfacct-name {CT_INVALID_COUNTER}"
        yield f"-A KUBE-FORWARD -m conntrack --ctstate INVALID {counted} -j DROP"
        why = '-m comment --comment "kubernetes forwarding rules"'
        yield f"-A KUBE-FORWARD {why} -m mark --mark {MARK}/{MARK} -j ACCEPT"
        why = '-m comment --comment "kubernetes forwarding conntrack rule"'
        yield f"-A KUBE-FORWARD {why} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"

    def add(self, port: Port) -> None:
        one = _Port(port)
        self._chains += one.chains()
        self._services += one.services()
        self._nodeports += one.nodeports()
        self._own += one.own()
        self._filter += one.filter()


class _Port:
    """The rules of one Service port (§1.5, a to f)."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._name, self._protocol = port.name, port.protocol
        self._uses_fw = bool(port.all and port.balancers and port.ranges)
        tail = port_hash(port.name)
        self._svc, self._svl = f"KUBE-SVC-{tail}", f"KUBE-SVL-{tail}"
        self._ext, self._fw = f"KUBE-EXT-{tail}", f"KUBE-FW-{tail}"

    def _to(self, ip: str) -> str:
        return f"-m {self._protocol} -p {self._protocol} -d {ip} --dport {self._port.port.port}"

    def _internal_chain(self) -> str:
        return self._svl if self._port.internal_local else self._svc

    def chains(self) -> list[str]:
        found = [self._svc] if self._port.uses_cluster else []
        found += [self._svl] if self._port.uses_local else []
        found += [self._ext] if self._port.uses_external else []
        found += [self._fw] if self._uses_fw else []
        return found + [endpoint_chain(self._name, text) for text in self._port.reachable]

    def services(self) -> Iterator[str]:
        head = f'-A KUBE-SERVICES -m comment --comment "{self._name} '
        if self._port.has_internal:
            yield f'{head}cluster IP" {self._to(self._port.vip)} -j {self._internal_chain()}'
        if self._port.all:
            yield from (f'{head}external IP" {self._to(ip)} -j {self._ext}' for ip in self._port.external_ips)
            chain = self._fw if self._uses_fw else self._ext
            yield from (f'{head}loadbalancer IP" {self._to(ip)} -j {chain}' for ip in self._port.balancers)

    def nodeports(self) -> Iterator[str]:
        if self._port.all and self._port.port.node_port:
            head = f"-A KUBE-NODEPORTS -m comment --comment {self._name}"
            match = f"-m {self._protocol} -p {self._protocol}"
            port = f"--dport {self._port.port.node_port}"
            if self._port.node.family is Family.V4:
                counted = f"-m nfacct --nfacct-name {LOCALHOST_NODEPORTS_COUNTER}"
                yield f"{head} {match} -d 127.0.0.0/8 {port} {counted} -j {self._ext}"
            yield f"{head} {match} {port} -j {self._ext}"

    def filter(self) -> Iterator[str]:
        why = "local endpoints" if self._port.all else "endpoints"
        verdict = f'-m comment --comment "{self._name} has no {why}"', "DROP" if self._port.all else "REJECT"
        if not self._port.has_internal:
            yield f"-A KUBE-SERVICES {verdict[0]} {self._to(self._port.vip)} -j {verdict[1]}"
        if self._uses_fw:
            why = f'-m comment --comment "{self._name} traffic not accepted by {self._fw}"'
            yield from (f"-A KUBE-PROXY-FIREWALL {why} {self._to(ip)} -j DROP" for ip in self._port.balancers)
        if not self._port.has_external:
            head = f"-A KUBE-EXTERNAL-SERVICES {verdict[0]}"
            for ip in [*self._port.external_ips, *self._port.balancers]:
                yield f"{head} {self._to(ip)} -j {verdict[1]}"
            if self._port.port.node_port:
                match = f"-m {self._protocol} -p {self._protocol} --dport {self._port.port.node_port}"
                yield f"{head} -m addrtype --dst-type LOCAL {match} -j {verdict[1]}"
        if self._port.service.health_check_node_port:
            why = f'-m comment --comment "{self._name} health check node port"'
            port = self._port.service.health_check_node_port
            yield f"-A KUBE-NODEPORTS {why} -m tcp -p tcp --dport {port} -j ACCEPT"

    def own(self) -> Iterator[str]:
        if self._port.has_internal:
            match = f'-m comment --comment "{self._name} cluster IP" {self._to(self._port.vip)}'
            yield f"-A {self._internal_chain()} {match} ! -s {self._port.node.cluster_cidr} -j KUBE-MARK-MASQ"
        if self._port.uses_external:
            yield from self._external_chain()
        if self._uses_fw:
            yield from self._firewall_chain()
        if self._port.uses_cluster:
            yield from self._balance(self._svc, self._port.all)
        if self._port.uses_local:
            yield from self._balance(self._svl, self._port.local)
        for text in self._port.reachable:
            yield from self._endpoint(text)

    def _external_chain(self) -> Iterator[str]:
        head, outside = f"-A {self._ext} -m comment --comment", f"{self._name} external destinations"
        if not self._port.external_local:
            yield f'{head} "masquerade traffic for {outside}" -j KUBE-MARK-MASQ'
        else:
            yield f'{head} "pod traffic for {outside}" -s {self._port.node.cluster_cidr} -j {self._svc}'
            local = "-m addrtype --src-type LOCAL"
            yield f'{head} "masquerade LOCAL traffic for {outside}" {local} -j KUBE-MARK-MASQ'
            yield f'{head} "route LOCAL traffic for {outside}" {local} -j {self._svc}'
        if self._port.has_external:
            yield f"-A {self._ext} -j {self._svl if self._port.external_local else self._svc}"

    def _firewall_chain(self) -> Iterator[str]:
        head = f"-A {self._fw} -m comment --comment"
        yield from (
            f'{head} "{self._name} loadbalancer IP" -s {each} -j {self._ext}' for each in self._port.ranges
        )
        if self._port.node_in_ranges:
            for ip in self._port.balancers:
                yield f'{head} "{self._name} loadbalancer IP" -s {ip} -j {self._ext}'
        yield f'{head} "other traffic to {self._name} will be dropped by KUBE-PROXY-FIREWALL"'

    def _balance(self, chain: str, endpoints: list[str]) -> Iterator[str]:
        for text in endpoints if self._port.service.session_affinity else ():
            sep, seconds = endpoint_chain(self._name, text), self._port.service.affinity_seconds
            recent = f"-m recent --name {sep} --rcheck --seconds {seconds} --reap"
            yield f'-A {chain} -m comment --comment "{self._name} -> {text}" {recent} -j {sep}'
        for i, text in enumerate(endpoints):
            left = len(endpoints) - i
            chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            sep = endpoint_chain(self._name, text)
            yield f'-A {chain} -m comment --comment "{self._name} -> {text}" {chance}-j {sep}'

    def _endpoint(self, text: str) -> Iterator[str]:
        sep, address = endpoint_chain(self._name, text), address_of(text)
        head = f"-A {sep} -m comment --comment {self._name}"
        yield f"{head} -s {address} -j KUBE-MARK-MASQ"
        recent = f"-m recent --name {sep} --set " if self._port.service.session_affinity else ""
        match = f"-m {self._protocol} -p {self._protocol}"
        yield f"{head} {recent}{match} -j DNAT --to-destination {text}"


def _fixed_nat() -> Iterator[str]:
    yield f"-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN"
    yield f"-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}"
    why = '-m comment --comment "kubernetes service traffic requiring SNAT"'
    yield f"-A KUBE-POSTROUTING {why} -j MASQUERADE --random-fully"
    yield f"-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}"


def _declare(chain: str) -> str:
    return f":{chain} - [0:0]"
