"""nftables mode's table in the real kernel: `nft` shows it and restores it, and what others do to it is undone.

What packets meet is the scenario table's; here is what else happens to tables: saved and restored rulesets, one
that is gone, kube-proxy's own in its place, other programs' transactions.
"""

import subprocess
from collections.abc import Iterator

import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.needs import PROBE_TABLE, trouble
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import EndpointSlice, Service, ServiceCIDR, ServiceType, TrafficPolicy
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.property.nftables_bed import described

pytestmark = pytest.mark.netns

SETTINGS = Settings(
    node_name="node1",
    cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/48"),
    localhost_nodeports=False,
    nodeport_addresses=("192.168.56.0/24", "2001:db8:56::/64"),
)
NET = {
    Family.V4: ("10.96.0", "10.244.0", "203.0.113"),
    Family.V6: ("fd00:10:96:", "fd00:10:244:", "2001:db8:113:"),
}
NFT_LOADS_STICKY = {Family.V4: True, Family.V6: False}
"""nft 1.0.6 aborts when it reads a rule that adds an IPv6 address and more to a dynamic map (README.md)."""


def _address(family: Family, net: int, number: int) -> str:
    return f"{NET[family][net]}{'.' if family is Family.V4 else ':'}{number}"


def objects(family: Family, *, sticky: bool = True) -> list[Service | EndpointSlice]:
    """Return Services that fill every set but the dynamic ones."""

    def ip(net: int, number: int) -> str:
        return _address(family, net, number)

    kinds: dict[str, dict[str, object]] = {
        "plain": {},
        "local": {"external_policy": TrafficPolicy.LOCAL},
        "far": {"external_policy": TrafficPolicy.LOCAL},
        "guarded": {"source_ranges": (f"{ip(2, 0)}/{family.host_bits - 4}", f"{ip(1, 0)}/{family.host_bits - 8}")},
    }
    if sticky:
        kinds["sticky"] = {"session_affinity": True, "affinity_seconds": 10800}
        kinds["both"] = kinds["sticky"] | kinds["local"]
    found: list[Service | EndpointSlice] = [
        service("void", ip(0, 99), "53/UDP", node_port=30999, type=ServiceType.NODE_PORT)
    ]
    for number, (name, fields) in enumerate(kinds.items(), 1):
        exposed = {"type": ServiceType.LOAD_BALANCER, "load_balancer_ips": (ip(2, number),)}
        found.append(service(name, ip(0, number), "80", node_port=30000 + number, **exposed, **fields))
        where = ("node2", "node2") if name == "far" else ("node1", "node2")
        found.append(
            endpoint_slice(name, "80", [f"{ip(1, number * 2 + i)}@{node}" for i, node in enumerate(where)])
        )
    return found


class Node:
    """An agent's part in a namespace."""

    def __init__(self, namespace: LoneNamespace, family: Family, built: World) -> None:
        self.namespace, self.family, self.world = namespace, family, built
        self.table = KernelTable(family)
        self.restart()

    def restart(self) -> None:
        self.backend = NftablesBackend(self.table, FakeSysctls(), self.family)

    def full(self) -> None:
        self.namespace.run(self._full)

    def _full(self) -> None:
        plan = self.backend.diff(wanted(self.world, SETTINGS, self.family, None), None)
        assert plan is not None
        assert not self.backend.apply(plan).quarantined

    def observe(self) -> str:
        return self.namespace.run(self.backend.observe)

    def held(self) -> dict[str, set[object]]:
        return self.namespace.run(lambda: described(self.table))

    def nft(self, text: str) -> None:
        """Let somebody run nftables commands."""
        self.namespace.run(lambda: subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True))

    def listed(self) -> str:
        word = "ip" if self.family is Family.V4 else "ip6"
        return self.namespace.execute("nft", "list", "table", word, "kube-proxy")


@pytest.fixture
def namespace() -> Iterator[LoneNamespace]:
    with lone_namespace() as built:
        yield built


def _node(namespace: LoneNamespace, family: Family, *, sticky: bool = True) -> Node:
    built = world(*objects(family, sticky=sticky))
    cidrs = tuple(f"{_address(each, 0, 0)}/{each.host_bits - 8}" for each in Family)
    built.apply_service_cidrs({("", "kubernetes"): ServiceCIDR(name="kubernetes", cidrs=cidrs)})
    return Node(namespace, family, built)


@pytest.mark.parametrize("family", Family)
def test_a_saved_ruleset_restores_the_table(namespace: LoneNamespace, family: Family) -> None:
    node = _node(namespace, family, sticky=NFT_LOADS_STICKY[family])
    node.full()
    before, text = node.held(), node.listed()
    assert "sticky-10800" in text or not NFT_LOADS_STICKY[family]
    node.nft(f"flush ruleset\n{text}")
    assert node.held() == before
    assert node.listed() == text
    assert node.observe() == ""


@pytest.mark.parametrize("family", Family)
def test_nft_lists_everything_that_the_mode_can_have(namespace: LoneNamespace, family: Family) -> None:
    node = _node(namespace, family)
    node.full()
    text = node.listed()
    for words in ("default/sticky", "default/void", "local-sticky-10800", "@local-sticky-endpoints"):
        assert words in text
    assert "[invalid type]" not in text


@pytest.mark.parametrize("family", Family)
def test_a_restart_after_a_restored_ruleset_finds_it_its_own(namespace: LoneNamespace, family: Family) -> None:
    node = _node(namespace, family, sticky=NFT_LOADS_STICKY[family])
    node.full()
    before = node.held()
    node.nft(f"flush ruleset\n{node.listed()}")
    node.restart()
    node.full()
    assert node.held() == before
    assert node.observe() == ""


@pytest.mark.parametrize("family", Family)
def test_a_flushed_ruleset_is_noticed_and_written_again(namespace: LoneNamespace, family: Family) -> None:
    node = _node(namespace, family)
    node.full()
    before = node.held()
    assert node.observe() == ""
    node.nft("flush ruleset")
    assert "deleted by somebody" in node.observe()
    node.full()
    assert node.held() == before


EDITS = (
    "delete element ip kube-proxy cluster-ips {{ {cluster} }}",
    "delete element ip kube-proxy endpoints {{ {cluster} . tcp . 80 . 1 }}",
    "add element ip kube-proxy rejected-services {{ {cluster} . tcp . 80 }}",
    "flush map ip kube-proxy service-classes",
    "flush chain ip kube-proxy services",
    "add rule ip kube-proxy filter-forward drop",
    "insert rule ip kube-proxy cluster-2 return",
    "add chain ip kube-proxy debugging",
    "add set ip kube-proxy debugging {{ type ipv4_addr; }}",
    "add rule ip kube-proxy services ip saddr 192.0.2.1 jump {{ tcp dport 1 drop; }}",
    "add element ip kube-proxy picks {{ 6b00:77 : continue }}",
    "add table ip kube-proxy {{ flags dormant; }}",
)


@pytest.mark.parametrize("edit", EDITS)
def test_an_administrators_slip_is_undone(namespace: LoneNamespace, edit: str) -> None:
    node = _node(namespace, Family.V4)
    node.full()
    before = node.held()
    assert node.observe() == ""
    node.nft(edit.format(cluster="10.96.0.1"))
    assert node.observe()
    node.full()
    assert node.held() == before
    assert not namespace.run(node.table.is_dormant)
    assert node.observe() == ""


@pytest.mark.parametrize("chain", ["services", "theirs"])
def test_a_comparison_takes_out_a_chain_that_is_part_of_a_rule(namespace: LoneNamespace, chain: str) -> None:
    node = _node(namespace, Family.V4)
    node.full()
    before = node.held()
    node.nft(
        f"add chain ip kube-proxy {chain}\n"
        f"add rule ip kube-proxy {chain} ip saddr 192.0.2.1 jump {{ tcp dport {{ 1, 2 }} drop; }}"
    )
    assert namespace.run(lambda: node.backend.repair(whole=True))
    assert node.held() == before
    assert node.observe() == ""


def test_what_other_programs_write_is_no_drift(namespace: LoneNamespace) -> None:
    node = _node(namespace, Family.V4)
    node.full()
    assert node.observe() == ""
    node.nft("table ip kube-proxy-other { chain c { type nat hook prerouting priority -101; }; }")
    assert node.observe() == ""
    assert not node.backend.needs_full


def test_a_table_of_kube_proxys_is_replaced(namespace: LoneNamespace) -> None:
    node = _node(namespace, Family.V4)
    node.full()
    before = node.held()
    node.nft("delete table ip kube-proxy")
    node.nft("""
        table ip kube-proxy {
            map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
            chain service-ULMVA6XW-ns1/svc1/tcp/p80 {
                meta l4proto tcp dnat ip to numgen random mod 1 map { 0 : 10.180.0.1 . 80 }
            }
            chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
            chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
        }
        add element ip kube-proxy service-ips {
            172.30.0.41 . tcp . 80 : goto service-ULMVA6XW-ns1/svc1/tcp/p80
        }""")
    node.restart()
    node.full()
    assert node.held() == before


def test_a_table_deleted_under_a_change_is_made_again(namespace: LoneNamespace) -> None:
    node = _node(namespace, Family.V4)
    node.full()
    node.nft("delete table ip kube-proxy")
    other = endpoint_slice("plain", "80", ["10.244.0.77@node2"])
    touched = node.world.apply_slices({("default", other.name): other})
    with pytest.raises(SyncFailed, match="a full sync will follow"):
        namespace.run(
            lambda: node.backend.apply(
                node.backend.diff(wanted(node.world, SETTINGS, Family.V4, touched), touched)  # type: ignore[arg-type]
            )
        )
    node.full()
    assert "10.244.0.77" in node.listed()


@pytest.mark.parametrize("family", Family)
def test_the_kernel_is_asked_without_a_trace(namespace: LoneNamespace, family: Family) -> None:
    assert namespace.run(lambda: trouble(KernelTable(family, PROBE_TABLE))) == ""
    assert namespace.execute("nft", "list", "ruleset") == ""


def test_a_restart_keeps_the_clients_that_affinity_remembers(namespace: LoneNamespace) -> None:
    node = _node(namespace, Family.V4)
    node.full()
    node.nft("add element ip kube-proxy affinity { 198.51.100.7 . 10.96.0.5 . tcp . 80 timeout 1h : 6bab:cd0e }")
    node.restart()
    node.full()
    assert "198.51.100.7 . 10.96.0.5 . tcp . 80" in node.listed()


def test_a_cleanup_leaves_other_tables(namespace: LoneNamespace) -> None:
    node = _node(namespace, Family.V4)
    node.nft("add table ip other")
    node.full()
    namespace.run(node.backend.cleanup)
    assert namespace.execute("nft", "list", "ruleset").split() == ["table", "ip", "other", "{", "}"]
