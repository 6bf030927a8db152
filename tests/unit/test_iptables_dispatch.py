"""Shared chains that branch, as the backend writes them; the tree itself: tests/property/test_dispatch_tree.py."""

from collections.abc import Iterator

import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.iptables import tree
from kubeproxy.dataplane.iptables.places import address_digits, match
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice, Service
from kubeproxy.testing.build import endpoint_slice, service
from tests.iptables_node import Node

pytestmark = pytest.mark.unit

MANY = 150


def crowd(count: int = MANY) -> Iterator[Service | EndpointSlice]:
    """Services of every kind: a third has no endpoints and refuses, a third is guarded by source ranges."""
    for i in range(count):
        yield service(
            f"s{i}",
            f"10.96.{i % 7}.{i % 251}",
            node_port=30000 + i,
            external_ips=(f"192.0.{i % 3}.{i % 253}",),
            load_balancer_ips=(f"198.51.{i % 3}.{i % 249}",),
            source_ranges=("203.0.113.0/24",) if i % 3 == 0 else (),
        )
        yield endpoint_slice(f"s{i}", "80", [f"10.244.5.{i % 200}@node1"] if i % 3 else [])


def branches(node: Node, table: str = "nat") -> set[str]:
    return {chain for chain in node.tables.tables[table] if chain.startswith("KUBE-TREE-")}


def test_few_services_need_no_branches() -> None:
    node = Node(*crowd(10))
    node.full()
    assert branches(node) == branches(node, "filter") == set()


def test_chains_stay_short_in_both_tables() -> None:
    node = Node(*crowd())
    node.full()
    shared = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL", "KUBE-TREE-")
    for table in ("nat", "filter"):
        assert branches(node, table)
        for chain, rules in node.tables.tables[table].items():
            assert len(rules) <= 2 * tree.SPLIT + 5 or not chain.startswith(shared)


def test_one_change_among_many_writes_one_rule_and_its_way() -> None:
    node = Node(*crowd())
    node.full()
    node.put(service("new", "10.96.3.250"), endpoint_slice("new", "80", ["10.244.5.9"]))
    lines = node.tables.restored[-1].splitlines()
    assert sum(line.startswith((":", "-X")) and "TREE" not in line for line in lines) == 1  # its own chain
    assert len(lines) < 10


def test_branches_go_with_their_services() -> None:
    node = Node(*crowd())
    node.full()
    for i in range(MANY - 5):
        node.world.apply_services({("default", f"s{i}"): None})
    node.partial({("default", f"s{i}") for i in range(MANY - 5)})
    assert branches(node) == branches(node, "filter") == set()
    few = Node(*list(crowd())[-10:])
    few.full()
    for table, chains in few.tables.tables.items():
        assert {c: sorted(r) for c, r in chains.items()} == {
            c: sorted(r) for c, r in node.tables.tables[table].items()
        }


def test_a_flat_layout_and_strange_branches_are_replaced_in_one_transaction() -> None:
    node = Node(*crowd())
    nat, filtered = node.tables.tables["nat"], node.tables.tables["filter"]
    nat["KUBE-SVC-AAAAAAAAAAAAAAAA"] = ["-j DNAT --to-destination 10.0.0.1:80"]
    nat["KUBE-TREE-S-0A6"] = ["-d 10.96.7.7/32 -j KUBE-SVC-AAAAAAAAAAAAAAAA"]
    nat["KUBE-SERVICES"] = [f"-d 10.96.7.{i}/32 -j KUBE-SVC-AAAAAAAAAAAAAAAA" for i in range(200)]
    nat["KUBE-SERVICES"].append("-d 10.96.0.0/12 -j KUBE-TREE-S-0A6")
    filtered["KUBE-TREE-X-C0000"] = ["-d 192.0.9.9/32 -j DROP"]
    filtered["KUBE-EXTERNAL-SERVICES"] = ["-d 192.0.9.0/24 -j KUBE-TREE-X-C0000"]
    node.full()
    fresh = Node(*crowd())
    fresh.full()
    assert node.tables.tables == fresh.tables.tables
    assert [node.tables.restored[0].count(table) for table in ("*nat", "*filter")] == [1, 1]


def test_a_branch_that_a_foreign_rule_needs_is_emptied_and_blocks_nobody() -> None:
    node = Node(*crowd(3))
    node.tables.tables["filter"]["KUBE-TREE-X-0A6"] = ["-d 10.96.7.7/32 -j DROP"]
    node.tables.tables["filter"]["THEIRS"] = ["-j KUBE-TREE-X-0A6"]
    node.full()
    assert node.rules("KUBE-TREE-X-0A6", "filter") == []


def test_cleanup_leaves_no_branch() -> None:
    node = Node(*crowd())
    node.full()
    node.backend.cleanup()
    assert not any(chain.startswith("KUBE") for chains in node.tables.tables.values() for chain in chains)


def test_a_refused_rule_of_a_branch_is_traced_to_its_service() -> None:
    node = Node(*crowd())
    node.tables.refuse = "192.0.1.100/32"
    with pytest.raises(SyncFailed) as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/s100"]
    assert node.full().ports == MANY - 1


def test_what_was_refused_is_not_taken_for_written() -> None:
    new = service("new", "10.96.3.250"), endpoint_slice("new", "80", ["10.244.5.9"])
    newer = service("newer", "10.96.3.249"), endpoint_slice("newer", "80", ["10.244.5.9"])
    node = Node(*crowd())
    node.full()
    node.tables.fail_next = "no"
    with pytest.raises(SyncFailed):
        node.put(*new)
    node.full()
    node.put(*newer)
    fresh = Node(*crowd(), *new, *newer)
    fresh.full()
    for table, chains in fresh.tables.tables.items():
        assert {c: sorted(r) for c, r in chains.items()} == {
            c: sorted(r) for c, r in node.tables.tables[table].items()
        }


@pytest.mark.parametrize(
    ("prefix", "family", "by_port", "expected"),
    [
        ("0A6", Family.V4, False, "-d 10.96.0.0/12 "),
        ("0A600001", Family.V4, False, "-d 10.96.0.1/32 "),
        ("0A600001U", Family.V4, False, "-d 10.96.0.1/32 -p udp "),
        ("0A600001T1F", Family.V4, False, "-d 10.96.0.1/32 -p tcp -m tcp --dport 7936:8191 "),
        ("0A600001S0050", Family.V4, False, "-d 10.96.0.1/32 -p sctp -m sctp --dport 80 "),
        ("FD000010009", Family.V6, False, "-d fd00:10:90::/44 "),
        ("T75", Family.V4, True, "-p tcp -m tcp --dport 29952:30207 "),
        ("U", Family.V6, True, "-p udp "),
    ],
)
def test_a_prefix_is_a_match(prefix: str, family: Family, by_port: bool, expected: str) -> None:
    assert match(prefix, family, by_port=by_port) == expected


@pytest.mark.parametrize("address", ["10.96.0.256", "10.96.0", "10.96.0.1/32", "::g", "", "10.96.0.01"])
def test_what_is_no_address_has_no_place(address: str) -> None:
    with pytest.raises(ValueError):
        address_digits(address)
