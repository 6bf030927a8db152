"""Leaving an ipvs mode that ran without iptables: its table's sets and guard stay while connections end."""

import pytest

from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.dataplane.ipvs.nft_rules import CHAINS
from kubeproxy.dataplane.ipvs.nft_writer import NftRuleWriter
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.dataplane.leftovers.removal import Kept, remove
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.types import DeleteTable
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Protocol
from tests.unit import test_leftovers
from tests.unit.test_leaving import ADDRESSES, IDLE, MARK, POD, SERVERS, SHORT, V4, WEB, entry
from tests.unit.test_leftovers import IPVS_FILTER_TABLE

pytestmark = pytest.mark.unit

BALANCER = ServerKey(Protocol.TCP, "203.0.113.7", 443)
NEXT = [Kept(mode=Mode.NFTABLES), Kept(mode=Mode.IPTABLES, flavour=Flavour.LEGACY)]


class Node(test_leftovers.Node):
    """A node on which ipvs mode has served ``keys`` by a table of nftables."""

    def __init__(self, *keys: ServerKey) -> None:
        super().__init__()
        self.device.kind = "dummy"
        sets = NftSets(self.table)
        for which, kind in KINDS.items():
            sets.create(f"KUBE-{which}", kind)
        places = [key for key in keys if key.address]
        sets.add(SERVERS, [entry(key) for key in places])
        sets.add(ADDRESSES, [key.address for key in places])
        self.device.routes.update(dict.fromkeys((key.address for key in places), ""))
        sets.add(SHORT, [(BALANCER.address, Protocol.TCP, 443, MARK.mark, 0xFFFFBFFF)])
        NftRuleWriter(self.table, FakeSysctls({})).write(NodeState(family=V4, name="node1"))
        for key in keys:
            self.servers.run([Command(Verb.ADD_SERVER, Server(key))])
            self.servers.run([Command(Verb.ADD_DESTINATION, Server(key), Destination(POD, 8080))])

    @property
    def table(self) -> FakeTable:
        return FakeTable(V4, NFT_TABLE, self.nft)

    def connections(self, key: ServerKey, active: int) -> None:
        self.servers.set_connections(key, POD, 8080, active=active)

    def weights(self, key: ServerKey) -> list[int]:
        return [each.destination.weight for each in self.servers.destinations(key)]

    def rules(self) -> dict[str, int]:
        """Return how many rules each chain has, where it has any."""
        return {chain: len(found) for chain in self.table.chains() if (found := self.table.rules(chain))}


@pytest.mark.parametrize("kept", NEXT)
def test_a_short_circuits_connection_keeps_its_address_at_every_look(kept: Kept) -> None:
    node = Node(BALANCER, MARK)
    node.connections(MARK, 1)  # a pod's; nobody comes by the address's own virtual server
    for _ in range(3):
        removed = remove(node.kernel(), [V4], kept)
        assert removed.complaints == ()
        assert "1 connections (1 established)" in removed.waiting[0]
        assert set(node.servers.table) == {MARK}
        assert set(node.device.routes) == {BALANCER.address}
    node.connections(MARK, 0)
    assert remove(node.kernel(), [V4], kept).waiting == ()
    assert not node.servers.table
    assert node.device.kind is None
    assert not node.table.exists()


@pytest.mark.parametrize("kept", NEXT)
def test_only_the_guard_stands_while_connections_end(kept: Kept) -> None:
    node = Node(WEB, IDLE)
    assert set(node.rules()) == set(CHAINS)
    # Nothing but the table guards, even where kube-proxy's ipvs mode left a chain for it.
    node.saved = {(V4, Flavour.LEGACY): IPVS_FILTER_TABLE}
    node.connections(WEB, 1)
    remove(node.kernel(), [V4], kept)
    assert node.rules() == {"filter-input": 1, "filter-output": 1}
    assert NftSets(node.table).members(ADDRESSES) == {WEB.address}
    assert NftSets(node.table).members(SERVERS) == {entry(WEB)}
    assert "--match-set KUBE-IPVS-IPS" not in "".join(node.restored)
    generation = node.nft.generation
    assert remove(node.kernel(), [V4], kept).waiting
    assert node.nft.generation == generation  # nothing more to do


@pytest.mark.parametrize("kept", NEXT)
def test_a_kernel_without_ipsets_keeps_what_connections_need_and_nothing_else(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, kind: SetType) -> bool:
        raise KernelError(f"ipset {name}: Invalid argument")

    node = Node(WEB, IDLE)
    monkeypatch.setattr(node.sets[V4], "create", refuse)
    node.connections(WEB, 1)
    removed = remove(node.kernel(), [V4], kept)
    assert removed.complaints == ()
    assert removed.waiting
    assert set(node.servers.table) == {WEB}
    assert node.weights(WEB) == [0]
    assert set(node.device.routes) == {WEB.address}


@pytest.mark.parametrize("kept", [None, Kept(mode=Mode.IPVS, flavour=Flavour.LEGACY)])
def test_the_table_goes_at_once_on_cleanup_and_where_iptables_do_the_same(kept: Kept | None) -> None:
    """Whatever was waiting: ipvs mode has taken it over. Its connections must not meet the guard meanwhile."""
    node = Node(WEB)
    node.connections(WEB, 1)
    remove(node.kernel(), [V4], NEXT[0])
    node.nft_error = OSError("not now")
    assert remove(node.kernel(), [V4], kept).complaints
    assert node.rules() == {}
    node.nft_error = None
    assert remove(node.kernel(), [V4], kept).complaints == ()
    assert not node.table.exists()


def test_what_has_lost_its_sets_is_emptied_and_goes() -> None:
    node = Node(WEB)
    node.table.commit([DeleteTable()])
    NftSets(node.table).create(SERVERS, SetType.PORTS)
    assert remove(node.kernel(), Family, NEXT[0]).complaints == ()
    assert not node.table.exists()


def test_a_kernel_without_nf_tables_has_no_such_table() -> None:
    node = Node()
    node.nft.present = False
    for kept in (*NEXT, None):
        assert remove(node.kernel(), [V4], kept).complaints == ()
