"""ipvs mode's rules by nftables, as packets meet them. This kernel has no IPVS perhaps, and needs none here: what
stands at a virtual address is a process of the node, and marks are counted where IPVS would read them.
"""

import json
import subprocess
from collections.abc import Iterator

import pytest

from kubeproxy.dataplane.ipvs.names import NFT_TABLE, Set, set_name
from kubeproxy.dataplane.ipvs.nft_writer import NftRuleWriter
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.nf_tables.fields import SPOKEN
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nft_set_elements import WHOLE_MARK
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.virtual_addresses import VirtualAddresses
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState
from kubeproxy.model.objects import Protocol
from tests.netns.test_virtual_addresses import kind_here
from tests.scenarios.addresses import HOSTS, NODE, POD_PREFIX
from tests.scenarios.lab import Lab
from tests.scenarios.probes import DROPPED, REFUSED, probe

pytestmark = pytest.mark.netns

VIP = {Family.V4: "10.96.0.1", Family.V6: "fd00:96::1"}
PODS = {Family.V4: "10.244.0.0/24", Family.V6: "fd00:10:244::/64"}
UNALLOCATED = {Family.V4: "10.96.7.7", Family.V6: "fd00:96::77"}
MARK = 0x6B000001
OPEN, UNDEFINED, NOBODY, ELSEWHERE, CUT, GUARDED, HEALTH = 7080, 7081, 7082, 7083, 7084, 7085, 7086
PATIENCE, SILENCE = 2.0, 0.4
"""Seconds; TCP over IPv6 believes only the second refusal, after one."""
TRANSPORTS = (Protocol.TCP, Protocol.UDP)


class Node:
    """The lab's node in one family, with rules written and sets to fill."""

    def __init__(self, place: Lab, family: Family, local: LocalTraffic) -> None:
        self.place = place
        self.family = family
        self.sets = NftSets(KernelTable(family, NFT_TABLE))
        self.writer = NftRuleWriter(KernelTable(family, NFT_TABLE), ProcSysctls())
        cidr = "10.96.0.0/16" if family is Family.V4 else "fd00:96::/112"
        state = NodeState(family=family, name="node1", local=local, service_cidrs=(cidr,))
        vip = VIP[family]

        def build() -> None:
            for which, kind in KINDS.items():
                self.sets.create(set_name(family, which), kind)
            addresses = VirtualAddresses(family, kind=kind_here())
            addresses.ensure_device()
            addresses.add([vip], NODE.address(family))
            self.writer.write(state)

        place.run("node", build)
        place.listen("node", (OPEN, UNDEFINED, NOBODY, ELSEWHERE, CUT, GUARDED, HEALTH))
        self.put(Set.ADDRESSES, vip)

    def put(self, which: Set, *members: Member) -> None:
        self.place.run("node", lambda: self.sets.add(set_name(self.family, which), members))

    def places(self, port: int, address: str = "") -> list[Member]:
        return [(address or VIP[self.family], protocol, port) for protocol in TRANSPORTS]

    def ask(self, client: str, port: int, address: str = "", patience: float = PATIENCE) -> set[str]:
        """Ask by each transport; return the answers, without the name of a server on a virtual address."""
        found = set()
        for protocol in TRANSPORTS:
            answer = probe(self.place, client, protocol, address or VIP[self.family], port, patience)
            found.add(answer if isinstance(answer, str) else f"{answer.client} {answer.port}")
        return found

    def nft(self, *arguments: str) -> str:
        def work() -> str:
            return subprocess.run(["nft", *arguments], check=True, capture_output=True, text=True).stdout

        return self.place.run("node", work)

    def add(self, *what: str) -> None:
        for each in what:
            self.nft("add", each)

    def count(self, chain: str, hook: str, match: str) -> None:
        """Count packets that match, in a table beside ours."""
        self.add(
            f"table {SPOKEN[self.family]} counting",
            f"chain {SPOKEN[self.family]} counting {chain} {{ type filter {hook} ; }}",
            f"rule {SPOKEN[self.family]} counting {chain} {match} counter",
        )

    def translate(self, place: str, to: str) -> None:
        """Let somebody else's rule translate what is for one address, where our own rules let it."""
        ip = SPOKEN[self.family]
        self.add(
            f"table {ip} others",
            f"chain {ip} others nat {{ type nat hook prerouting priority dstnat ; }}",
            f"rule {ip} others nat {ip} daddr {place} dnat to {to}",
        )

    def counted(self, chain: str) -> int:
        listed = json.loads(self.nft("-j", f"list chain {SPOKEN[self.family]} counting {chain}"))
        rules = [each["rule"]["expr"] for each in listed["nftables"] if "rule" in each]
        return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


@pytest.fixture(params=["by address", "by interface"])
def local(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
def node(place: Lab, request: pytest.FixtureRequest, local: str) -> Iterator[Node]:
    family = request.param
    pods = LocalTraffic(LocalKind.PREFIX, POD_PREFIX)
    if local == "by address":
        pods = LocalTraffic(LocalKind.SOURCE, PODS[family])
    node = Node(place, family, pods)
    yield node

    def clean() -> None:
        assert node.writer.remove() == []
        assert all(node.sets.destroy(set_name(family, which)) for which in KINDS)
        addresses = VirtualAddresses(family, kind=kind_here())
        addresses.remove([VIP[family]])
        addresses.remove_device()
        for table in ("counting", "others"):
            subprocess.run(["nft", "delete", "table", SPOKEN[family], table], check=False, capture_output=True)
        left = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
        assert NFT_TABLE not in left

    place.run("node", clean)


def test_a_virtual_address_answers_where_something_is_and_refuses_elsewhere(node: Node) -> None:
    node.put(Set.SERVERS, *node.places(OPEN), *node.places(NOBODY), *node.places(ELSEWHERE))
    node.put(Set.NO_ENDPOINTS, *node.places(NOBODY))
    node.put(Set.NO_LOCAL, *node.places(ELSEWHERE))
    node.put(Set.HEALTH_CHECKS, HEALTH)
    for client in ("outside", "pod", "farpod", "node"):
        if client != "node":  # whose packets IPVS takes before they come to a rule that would refuse them
            assert node.ask(client, OPEN) == {f"same {OPEN}"}
        assert node.ask(client, UNDEFINED) == {REFUSED}
        assert node.ask(client, ELSEWHERE, patience=SILENCE) == {DROPPED}
    for client in ("outside", "pod"):
        assert node.ask(client, NOBODY) == {REFUSED}
        # What is at the node's own addresses is no business of ours.
        assert node.ask(client, UNDEFINED, NODE.address(node.family)) == {f"same {UNDEFINED}"}
        assert node.ask(client, HEALTH, NODE.address(node.family)) == {f"same {HEALTH}"}
        assert node.ask(client, OPEN, UNALLOCATED[node.family], patience=SILENCE) == {DROPPED}


def test_who_is_not_admitted_is_dropped(node: Node) -> None:
    node.put(Set.SERVERS, *node.places(GUARDED))
    node.put(Set.GUARDED, *node.places(GUARDED))
    source = f"{HOSTS['outside'].address(node.family)}/{node.family.host_bits}"
    node.put(Set.ADMITTED, *[(*entry, source) for entry in node.places(GUARDED) if isinstance(entry, tuple)])
    assert node.ask("outside", GUARDED) == {f"same {GUARDED}"}
    assert node.ask("blocked", GUARDED, patience=SILENCE) == {DROPPED}
    assert node.ask("pod", GUARDED, patience=SILENCE) == {DROPPED}


def test_pods_and_the_node_take_the_short_circuit_and_others_do_not(node: Node) -> None:
    node.put(Set.SERVERS, *node.places(CUT))
    node.put(Set.NO_LOCAL, *node.places(CUT))
    marked = [(*entry, MARK, WHOLE_MARK) for entry in node.places(CUT) if isinstance(entry, tuple)]
    node.put(Set.SHORT_CIRCUIT, *marked)
    node.count("inside", "hook input priority 90", f"meta mark {MARK:#x}")
    node.count("own", "hook output priority -99", f"meta mark {MARK | 0x4000:#x} ct state new")
    assert node.ask("outside", CUT, patience=SILENCE) == {DROPPED}
    assert (node.counted("inside"), node.counted("own")) == (0, 0)
    assert node.ask("pod", CUT) == {f"same {CUT}"}
    assert node.counted("inside") >= 3  # also those of an open connection
    assert node.counted("own") == 0
    node.ask("node", CUT, patience=SILENCE)
    assert node.counted("own") >= 2


def test_who_is_to_be_masqueraded_is_and_nobody_else_translates_the_destination(node: Node) -> None:
    be1, be2 = HOSTS["be1"].address(node.family), HOSTS["be2"].address(node.family)
    node.translate(be2, be1)
    assert node.ask("outside", 80, be1) == {"same 80"}
    assert _server(node, "outside", 80, be2) == "be1 same"
    node.put(Set.SERVERS, *node.places(80, be2))
    assert _server(node, "outside", 80, be2) == "be2 same"
    node.put(Set.CLUSTER_IP, *node.places(80, be2))
    assert _server(node, "pod", 80, be2) == "be2 same"
    assert _server(node, "outside", 80, be2) == "be2 masq"
    node.put(Set.MASQUERADE, *node.places(80, be2))
    assert _server(node, "pod", 80, be2) == "be2 masq"


def test_an_endpoint_that_reaches_itself_is_masqueraded(node: Node) -> None:
    be1 = HOSTS["be1"].address(node.family)
    away = UNALLOCATED[node.family]
    node.translate(away, be1)
    assert node.ask("be1", 80, away, patience=SILENCE) == {DROPPED}
    node.put(Set.LOOP_BACK, *node.places(80, be1))
    assert _server(node, "be1", 80, away) == "be1 masq"
    assert _server(node, "be2", 80, away) == "be1 same"


def test_a_change_of_the_rules_is_seen(node: Node) -> None:
    def change(*arguments: str) -> str:
        subprocess.run(["nft", *arguments], check=True)
        return node.writer.drift()

    where = SPOKEN[node.family], NFT_TABLE
    assert node.place.run("node", node.writer.drift) == ""
    assert node.place.run("node", lambda: change("add", "table", SPOKEN[node.family], "others")) == ""
    added = node.place.run("node", lambda: change("add", "rule", *where, "filter-input", "accept"))
    assert added == f"nftables chain {' '.join(where)} filter-input was changed by somebody"
    flushed = node.place.run("node", lambda: change("flush", "chain", *where, "ingress"))
    assert flushed == f"nftables chain {' '.join(where)} ingress was changed by somebody"


def _server(node: Node, client: str, port: int, address: str) -> str:
    answer = probe(node.place, client, Protocol.TCP, address, port, SILENCE)
    return answer if isinstance(answer, str) else f"{answer.server} {answer.client}"
