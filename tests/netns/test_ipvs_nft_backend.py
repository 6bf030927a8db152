"""The ipvs backend with rules and sets by nftables on the real kernel, over a model of IPVS."""

import subprocess
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.dataplane.ipvs.names import NFT_TABLE, Set, set_name
from kubeproxy.dataplane.ipvs.nft_rules import CHAINS, NftRules, guard
from kubeproxy.dataplane.ipvs.nft_writer import NftRuleWriter
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import Kept, remove
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.ipvs_types import Command, Verb
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.kernel.sets import Sets
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.xtables import nft_generation
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState
from kubeproxy.model.objects import Protocol, Service, TrafficPolicy
from tests import ipvs_node
from tests.backend_node import web, web_slice
from tests.ipvs_node import VIP
from tests.netns.lone_namespace import LoneNamespace
from tests.netns.nf_tables_contents import contents

pytestmark = pytest.mark.netns

ASLEEP = f"add table ip {NFT_TABLE} {{ flags dormant; }}"


class Node(ipvs_node.Node):
    """See `ipvs_node.Node`; to be used in a namespace of its own."""

    past: Sets | None = None

    def restart(self) -> None:
        assert self.settings.ipvs is not None
        self.real = NftSets(KernelTable(Family.V4, NFT_TABLE))
        self.backend = IpvsBackend(
            NftRuleWriter(KernelTable(Family.V4, NFT_TABLE), self.sysctls),
            self.real,
            self.servers,
            self.addresses,
            self.sysctls,
            Family.V4,
            self.settings.ipvs,
            lambda: self.local,
            self.past,
        )

    def members(self, which: Set) -> set[Member]:
        return NftSets(KernelTable(Family.V4, NFT_TABLE)).members(set_name(Family.V4, which))


def exposed() -> Service:
    return web(
        load_balancer_ips=("203.0.113.1",),
        source_ranges=("198.51.100.0/24", "198.51.0.0/16", "192.0.2.0/24"),
        external_policy=TrafficPolicy.LOCAL,
    )


def nft(*arguments: str) -> str:
    return subprocess.run(["nft", *arguments], check=True, capture_output=True, text=True).stdout


def test_a_node_is_served_watched_adopted_and_cleaned_up(alone: LoneNamespace) -> None:
    def work() -> None:
        node = Node(web(), web_slice())
        applied = node.full()
        assert applied.rules[0].table == NFT_TABLE
        assert applied.rules[0].standing > 20
        assert node.weights() == {"10.244.0.2": 1, "10.244.1.2": 1}
        place = ("10.96.0.1", Protocol.TCP, 80)
        assert node.members(Set.CLUSTER_IP) == node.members(Set.SERVERS) == {place}
        assert node.members(Set.ADDRESSES) == {"10.96.0.1"}
        assert node.backend.observe() == ""
        node.put(web_slice("10.244.1.2@node2"))
        assert node.members(Set.LOOP_BACK) == set()
        before = nft_generation()
        node.put(web_slice("10.244.1.3@node2"))
        assert nft_generation() == before, "a change of other nodes' endpoints is none of sets or rules"
        assert node.backend.observe() == ""
        # A restart finds everything as it is wanted, and touches no virtual server.
        node.restart()
        done = len(node.servers.log)
        node.full()
        assert not [each for each in node.servers.log[done:] if each.verb is not Verb.SET_SERVER]
        for spoil, seen in (
            (("flush", "set", "ip", NFT_TABLE, "KUBE-CLUSTER-IP"), "set KUBE-CLUSTER-IP has 0 entries"),
            (("flush", "chain", "ip", NFT_TABLE, "ingress"), "ingress was changed by somebody"),
            ((ASLEEP,), "was put to sleep by somebody"),
            (
                (f"{ASLEEP} ; flush chain ip {NFT_TABLE} nat-output ; delete chain ip {NFT_TABLE} nat-output",),
                "was put to sleep by somebody",
            ),
            (("delete", "table", "ip", NFT_TABLE), "was destroyed by somebody"),
        ):
            nft(*spoil)
            assert seen in node.backend.observe()
            assert node.backend.needs_full
            node.full()
            assert node.members(Set.CLUSTER_IP) == {place}
            assert node.backend.observe() == ""
        node.backend.cleanup()
        assert NFT_TABLE not in nft("list", "tables")
        assert node.weights() is None

    alone.run(work)


def test_a_table_that_was_restored_otherwise_than_it_was_saved_is_written_again(alone: LoneNamespace) -> None:
    """Its rules have the very numbers that ours had."""

    def work() -> None:
        node = Node(web(), web_slice())
        node.full()
        saved = nft("list", "table", "ip", NFT_TABLE)
        text = saved.replace("masquerade fully-random", "accept")
        assert text != saved
        subprocess.run(["nft", "-f", "-"], input=f"delete table ip {NFT_TABLE}\n{text}", text=True, check=True)
        assert "was deleted and made anew by somebody" in node.backend.observe()
        node.full()
        assert sorted(nft("list", "table", "ip", NFT_TABLE).splitlines()) == sorted(saved.splitlines())
        assert node.backend.observe() == ""

    alone.run(work)


def test_source_ranges_that_lie_in_one_another_and_their_change(alone: LoneNamespace) -> None:
    def work() -> None:
        node = Node(exposed(), web_slice())
        node.full()
        sources = {each[3] for each in node.members(Set.ADMITTED) if isinstance(each, tuple) and len(each) == 4}
        assert sources == {"198.51.0.0/16", "192.0.2.0/24"}
        assert len(node.members(Set.SHORT_CIRCUIT)) == 1
        assert node.backend.observe() == ""
        node.put(web(load_balancer_ips=("203.0.113.1",), source_ranges=("198.51.100.0/24", "192.0.0.0/16")))
        sources = {each[3] for each in node.members(Set.ADMITTED) if isinstance(each, tuple) and len(each) == 4}
        assert sources == {"198.51.100.0/24", "192.0.0.0/16"}
        assert node.members(Set.SHORT_CIRCUIT) == set()
        assert node.backend.observe() == ""

    alone.run(work)


def test_what_a_predecessor_with_ipsets_made_is_ours(alone: LoneNamespace) -> None:
    def work() -> None:
        node = Node(web(), web_slice())
        node.full()
        place = ("10.96.0.1", Protocol.TCP, 80)
        ipsets = Ipset(Family.V4)
        name = set_name(Family.V4, Set.SERVERS)
        ipsets.create(name, SetType.PORTS)
        ipsets.add(name, [place, ("10.96.0.2", Protocol.TCP, 80)])
        nft("delete", "table", "ip", NFT_TABLE)
        Node.past = ipsets
        try:
            node.restart()
        finally:
            Node.past = None
        applied = node.full()
        assert applied.notes == {}
        assert node.weights(VIP) == {"10.244.0.2": 1, "10.244.1.2": 1}
        assert node.members(Set.SERVERS) == {place}

    alone.run(work)


def test_what_another_mode_leaves_and_a_cleanup_takes_along(alone: LoneNamespace) -> None:
    def work() -> None:
        node = Node(web(), web_slice())
        node.full()
        kernel = replace(whole_kernel(), servers=node.servers)
        assert remove(kernel, Family, Kept(mode=Mode.IPVS)).complaints == ()
        assert node.members(Set.SERVERS) == {("10.96.0.1", Protocol.TCP, 80)}
        assert node.backend.observe() == ""
        removed = remove(kernel, Family, None)
        assert removed.complaints == ()
        assert node.weights() is None
        assert NFT_TABLE not in nft("list", "tables")

    alone.run(work)


def test_new_connections_are_the_next_modes_before_virtual_servers_go(alone: LoneNamespace) -> None:
    """The rules come first: what serves now would get none, and these would find no virtual server."""
    chains = ("nat-prerouting", "nat-output")

    def work() -> None:
        node = Node(web(), web_slice())
        node.full()
        servers, standing = node.servers, []

        def run(commands: Sequence[Command]) -> list[int]:
            standing.extend(nft("list", "chain", "ip", NFT_TABLE, chain) for chain in chains)
            return type(servers).run(servers, commands)

        assert "dnat to" in nft("list", "table", "ip", NFT_TABLE)
        servers.run = run  # type: ignore[method-assign]
        removed = remove(replace(whole_kernel(), servers=servers), Family, Kept(mode=Mode.NFTABLES))
        assert removed.complaints == ()
        assert len(standing) == len(chains)
        assert not any("dnat to" in text for text in standing)
        assert node.weights() is None
        assert NFT_TABLE not in nft("list", "tables")

    alone.run(work)


def test_the_table_tells_and_guards_while_connections_end(alone: LoneNamespace) -> None:
    def work() -> None:
        node = Node(web(), web_slice())
        node.full()
        for each in node.servers.destinations(VIP):
            node.servers.set_connections(VIP, each.destination.address, each.destination.port, active=1)
        kernel = replace(whole_kernel(), servers=node.servers)
        standing = set()
        for _ in range(2):
            removed = remove(kernel, [Family.V4], Kept(mode=Mode.NFTABLES))
            assert removed.complaints == ()
            assert "2 connections (2 established)" in removed.waiting[0]
            table = KernelTable(Family.V4, NFT_TABLE)
            rules = [rule for chain in CHAINS for rule in table.rules(chain)]
            assert rules == list(guard(Family.V4))
            assert node.members(Set.SERVERS) == {("10.96.0.1", Protocol.TCP, 80)}
            standing.add(tuple(handle for chain in CHAINS for handle, _ in table.numbered_rules(chain)))
        assert len(standing) == 1  # the second time nothing was to do
        for each in node.servers.destinations(VIP):
            node.servers.set_connections(VIP, each.destination.address, each.destination.port)
        assert remove(kernel, [Family.V4], Kept(mode=Mode.NFTABLES)).waiting == ()
        assert node.weights() is None
        assert NFT_TABLE not in nft("list", "tables")


def test_ipvs_mode_comes_back_while_connections_end(alone: LoneNamespace) -> None:
    def work() -> None:
        node = Node(web(), web_slice())
        node.full()
        before = contents(KernelTable(Family.V4, NFT_TABLE))
        for each in node.servers.destinations(VIP):
            node.servers.set_connections(VIP, each.destination.address, each.destination.port, active=1)
        kernel = replace(whole_kernel(), servers=node.servers)
        assert remove(kernel, [Family.V4], Kept(mode=Mode.NFTABLES)).waiting
        assert set(node.weights(VIP).values()) == {0}
        node.restart()
        node.full()
        assert node.weights(VIP) == {"10.244.0.2": 1, "10.244.1.2": 1}
        assert contents(KernelTable(Family.V4, NFT_TABLE)) == before
        assert remove(kernel, [Family.V4], Kept(mode=Mode.IPVS)).waiting == ()
        assert node.backend.observe() == ""

    alone.run(work)


LOCALS = {
    Family.V4: (
        LocalTraffic(),
        LocalTraffic(LocalKind.SOURCE, "10.244.0.0/16"),
        LocalTraffic(LocalKind.SOURCE, "10.240.0.0/12"),
        LocalTraffic(LocalKind.INTERFACE, "cbr0"),
        LocalTraffic(LocalKind.PREFIX, "veth"),
    ),
    Family.V6: (LocalTraffic(LocalKind.SOURCE, "fd00:10::/45"),),
}
CIDRS = {Family.V4: ("10.96.0.0/16", "10.1.0.0/20"), Family.V6: ("fd00:96::/112",)}


@pytest.mark.parametrize(("family", "local"), [(family, local) for family in Family for local in LOCALS[family]])
def test_the_nft_program_makes_the_same_rules_of_its_listing(
    alone: LoneNamespace, family: Family, local: LocalTraffic
) -> None:
    state = NodeState(family=family, name="node1", local=local, service_cidrs=CIDRS[family])

    def work() -> None:
        table = KernelTable(family, NFT_TABLE)
        sets = NftSets(table)
        for which, kind in KINDS.items():
            sets.create(set_name(family, which), kind)
        NftRuleWriter(table, ProcSysctls()).write(state)
        before = contents(table)
        for chain in CHAINS:
            assert before[f"chain {chain}"] == [each for each in NftRules(state).rules() if each.chain == chain]
        subprocess.run(["nft", "-f", "-"], input="flush ruleset\n" + nft("list", "ruleset"), text=True, check=True)
        assert contents(table) == before

    alone.run(work)


@pytest.mark.parametrize(
    "instead",
    [
        "ingress { type filter hook prerouting priority 5 ; }",
        "ingress",
        "nat-output { type filter hook output priority -101 ; policy drop ; }",
    ],
)
def test_a_chain_of_our_name_that_is_another_one_is_replaced(alone: LoneNamespace, instead: str) -> None:
    name = instead.split()[0]

    def work() -> None:
        node = Node(web(), web_slice())
        node.full()
        listed = nft("list", "chain", "ip", NFT_TABLE, name)
        nft(f"flush chain ip {NFT_TABLE} {name} ; delete chain ip {NFT_TABLE} {name}")
        nft(f"add chain ip {NFT_TABLE} {instead}")
        assert f"{name} was changed by somebody" in node.backend.observe()
        node.full()
        assert nft("list", "chain", "ip", NFT_TABLE, name) == listed
        assert node.backend.observe() == ""

    alone.run(work)
