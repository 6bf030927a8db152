"""Packet counters that rules may name, and how many rules stand (reference/kube-proxy.md §6.2 rows 35 and 41)."""

import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.counters import usable
from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.dataplane.iptables.tables import JUMPS
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Service
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service, world

pytestmark = pytest.mark.unit

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))


class Kernel:
    """A kernel that has the match or has not, and refuses to make some counters."""

    def __init__(self, match: bool = True, refused: tuple[str, ...] = ()) -> None:
        self.match, self.refused = match, refused
        self.made: list[str] = []

    def has_match(self, match: str) -> bool:
        return self.match and match == "nfacct"

    def ensure(self, name: str) -> None:
        if name in self.refused:
            raise KernelError("Invalid argument")
        self.made.append(name)


def test_both_are_made() -> None:
    kernel = Kernel()
    assert usable(kernel, kernel) == set(names.COUNTERS)
    assert kernel.made == ["ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"]


def test_without_the_match_no_counter_is_any_use() -> None:
    kernel = Kernel(match=False)
    assert usable(kernel, kernel) == frozenset()
    assert kernel.made == []


def test_one_that_cannot_be_made_is_left_out() -> None:
    kernel = Kernel(refused=(names.CT_INVALID_COUNTER,))
    assert usable(kernel, kernel) == {names.LOCALHOST_NODEPORTS_COUNTER}


def _rules_added(text: str) -> int:
    """Count the rules that a text adds to nat and filter; a jump that is missing is of nobody's port."""
    count, table = 0, ""
    for line in text.splitlines():
        table = line if line.startswith("*") else table
        jump = any(f"{each.chain} " in line and line.endswith(f"-j {each.target}") for each in JUMPS)
        count += table != "*mangle" and line.startswith(("-A ", "-I ")) and not jump
    return count


class Node:
    """A backend over the model kernel, which checks after every sync that rules were counted right."""

    def __init__(self, *objects: Service | EndpointSlice) -> None:
        self.world = world(*objects)
        self.tables = FakeTables(FakeSets())
        self.backend = self.restarted()
        self.written: dict[str, int] = {}

    def restarted(self) -> IptablesBackend:
        return IptablesBackend(self.tables, self.tables._sets, FakeSysctls(), Family.V4, self.tables)

    def sync(self, scope: set[Key] | None = None) -> None:
        plan = self.backend.diff(wanted(self.world, SETTINGS, Family.V4, scope), scope)
        assert plan is not None
        before = len(self.tables.restored)
        counts = {each.table: each for each in self.backend.apply(plan).rules}
        standing = {table: sum(map(len, self.tables.tables[table].values())) for table in counts}
        assert {table: each.standing for table, each in counts.items()} == standing
        self.written = {table: each.written for table, each in counts.items()}
        added = sum(_rules_added(text) for text in self.tables.restored[before:])
        assert sum(self.written.values()) == added

    def put(self, *objects: Service | EndpointSlice) -> None:
        touched: set[Key] = set()
        for each in objects:
            batch = {(each.namespace, each.name): each}
            if isinstance(each, Service):
                touched |= self.world.apply_services(batch)  # type: ignore[arg-type]
            else:
                touched |= self.world.apply_slices(batch)  # type: ignore[arg-type]
        self.sync(touched)


def test_rules_are_counted_as_they_stand_and_as_they_are_written() -> None:
    node = Node(service("web", "10.96.0.1"), endpoint_slice("web", "80", ["10.244.0.2@node1", "10.244.1.2@node2"]))
    node.sync()
    fixed = dict(node.written)
    node.put(
        service("api", "10.96.0.2", node_port=30080, external_ips=("1.2.3.4",), load_balancer_ips=("5.6.7.8",))
    )
    assert node.written["nat"] == 2  # its two outer addresses are nobody else's node port either
    assert node.written["filter"] > 0  # it refuses
    node.put(endpoint_slice("api", "80", [f"10.244.0.{i}@node1" for i in range(3, 9)]))
    assert node.written["nat"] > 6
    assert node.written["filter"] == 0
    ranged = ("192.0.2.0/24",)
    node.put(service("api", "10.96.0.2", "80,81", load_balancer_ips=("5.6.7.8",), source_ranges=ranged))
    node.put(service("web", "10.96.0.1", session_affinity=True))
    node.put(endpoint_slice("web", "80", []))
    node.backend = node.restarted()
    node.sync()
    assert node.written["nat"] > fixed["nat"]
    touched = node.world.apply_services({("default", "web"): None, ("default", "api"): None})
    node.sync(touched)
    assert node.written == {"nat": 0, "filter": 0}
    node.sync()


def test_a_port_that_is_refused_does_not_count() -> None:
    node = Node(service("web", "10.96.0.1"), endpoint_slice("web", "80", ["10.244.0.2"]))
    node.sync()
    node.tables.refuse = "10.96.0.7"
    node.world.apply_services({("default", "bad"): service("bad", "10.96.0.7")})
    node.world.apply_slices({("default", "bad"): endpoint_slice("bad", "80", ["10.244.0.3"])})
    with pytest.raises(SyncFailed):
        node.sync({("default", "bad")})
    with pytest.raises(SyncFailed) as refused:
        node.sync()
    assert refused.value.culprits
    node.sync()


def counting(node: Node) -> list[str]:
    every = (rule for chains in node.tables.tables.values() for rules in chains.values() for rule in rules)
    return [rule for rule in every if "nfacct" in rule]


def test_the_fixed_rules_count_packets_where_the_kernel_can() -> None:
    node = Node()
    node.sync()
    assert counting(node) == [
        "-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP",
        "-m conntrack --ctstate DNAT --ctorigdst 127.0.0.0/8 -m nfacct --nfacct-name localhost_nps_accepted_pkts",
    ]
    assert set(node.tables.counters) == set(names.COUNTERS)


def test_and_do_without_where_it_cannot() -> None:
    node = Node()
    node.tables.has_nfacct = False
    node.sync()
    assert counting(node) == []
    assert "-m conntrack --ctstate INVALID -j DROP" in node.tables.tables["filter"]["KUBE-FORWARD"]
