"""What other proxies left: what is recognised, in which order it goes, and what is said of what cannot go."""

import asyncio
import logging
import struct
from collections.abc import Callable, Iterable

import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.dataplane.iptables.localnet import MARK, ROUTE_LOCALNET
from kubeproxy.dataplane.iptables.names import COUNTERS
from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.dataplane.leftovers.chains import removal
from kubeproxy.dataplane.leftovers.guard import guard
from kubeproxy.dataplane.leftovers.leaving import Left
from kubeproxy.dataplane.leftovers.removal import Kept, Kernel, Removed, remove
from kubeproxy.dataplane.leftovers.upstream import (
    BUT_IPTABLES,
    BUT_OUR_IPVS,
    EVERY_OWNED,
    IPVS_SETS,
    OUR_IPVS_SETS,
    Mode,
)
from kubeproxy.kernel.exec import CommandMissing
from kubeproxy.kernel.fake_conntrack import FakeConntrack
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.fake_ipvs import FakeVirtualServers
from kubeproxy.kernel.fake_virtual_addresses import FakeDevice, FakeVirtualAddresses
from kubeproxy.kernel.genetlink_messages import decode_family, encode_family
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.kernel.ipvs_messages import encode_flush
from kubeproxy.kernel.netlink_messages import attribute
from kubeproxy.kernel.nf_tables.fake import FakeNftables, FakeTable
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.sync.leftovers import RETRY_SECONDS, Sweeper
from kubeproxy.sync.status import SyncStatus

pytestmark = pytest.mark.unit

FIREWALL = '-m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL'
IPVS_FILTER_TABLE = f"""*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT {FIREWALL}
-A FORWARD {FIREWALL}
-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-A INPUT -j KUBE-FIREWALL
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT
COMMIT
"""


def test_what_only_the_ipvs_mode_has_goes_and_what_both_have_stays() -> None:
    plan = removal("filter", IPVS_FILTER_TABLE, BUT_IPTABLES)
    assert plan.text.splitlines() == [
        "*filter",
        '-D INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER',
        f"-D INPUT {FIREWALL}",
        f"-D FORWARD {FIREWALL}",
        '-D INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT',
        ":KUBE-IPVS-FILTER - [0:0]",
        ":KUBE-NODE-PORT - [0:0]",
        "-X KUBE-IPVS-FILTER",
        "-X KUBE-NODE-PORT",
        "COMMIT",
    ]
    assert plan.stuck == ()


PORTALS = '-m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
OUTSIDE = '-m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals"'
IPTABLES_FILTER_TABLE = f"""*filter
:INPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT {OUTSIDE} -j KUBE-EXTERNAL-SERVICES
-A FORWARD {PORTALS}
COMMIT
"""
IPTABLES_NAT_TABLE = """*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-MARK-MASQ
COMMIT
"""


def test_where_ipvs_mode_serves_what_only_iptables_mode_and_kube_proxys_ipvs_mode_have_goes() -> None:
    plan = removal("filter", IPTABLES_FILTER_TABLE, BUT_OUR_IPVS)
    assert [line.partition(" -m ")[0] for line in plan.text.splitlines()] == [
        "*filter",
        "-D INPUT",
        "-D INPUT",
        ":KUBE-EXTERNAL-SERVICES - [0:0]",
        ":KUBE-NODEPORTS - [0:0]",
        "-X KUBE-EXTERNAL-SERVICES",
        "-X KUBE-NODEPORTS",
        "COMMIT",
    ]
    gone = [line for line in removal("nat", IPTABLES_NAT_TABLE, BUT_OUR_IPVS).text.splitlines() if "-X" in line]
    assert gone == ["-X KUBE-LOAD-BALANCER", "-X KUBE-SVC-AAAAAAAAAAAAAAAA"]


def test_ipvs_mode_keeps_its_sets_and_servers_and_takes_the_other_flavours_rules() -> None:
    node = Node()
    node.saved = {
        (Family.V4, Flavour.NFT): MARKED,
        (Family.V4, Flavour.LEGACY): IPTABLES_NAT_TABLE,
        (Family.V6, Flavour.LEGACY): IPTABLES_FILTER_TABLE,
    }
    node.device.kind = "dummy"
    node.sets[Family.V4].sets["KUBE-SEP-AAAAAAAAAAAAAAAA"] = set()
    assert remove(node.kernel(), Family, Kept(mode=Mode.IPVS, flavour=Flavour.NFT)) == Removed()
    # The mark of route_localnet goes, even in the flavour that stays: ipvs mode answers nothing on loopback.
    assert [line for line in node.log if "restore" in line] == [
        "restore IPv4 legacy",
        "restore IPv4 nft mark",
        "restore IPv6 legacy",
    ]
    assert node.sysctls.values[ROUTE_LOCALNET] == "0"
    destroyed = {line.removeprefix("destroy ") for line in node.log if line.startswith("destroy ")}
    ours = {name for family in Family for name in OUR_IPVS_SETS[family]}
    assert not destroyed & ours
    assert {"KUBE-EXTERNAL-IP", "KUBE-6-EXTERNAL-IP", "KUBE-CLUSTER-IPS", "KUBE-SEP-AAAAAAAAAAAAAAAA"} <= destroyed
    assert node.device.kind == "dummy"


def test_what_a_foreign_rule_leads_to_is_emptied_once_and_named() -> None:
    saved = (
        "*nat\n:KUBE-SERVICES - [0:0]\n:THEIRS - [0:0]\n-A THEIRS -j KUBE-SERVICES\n-A KUBE-SERVICES -j RETURN\n"
    )
    plan = removal("nat", saved, EVERY_OWNED)
    assert plan.text == "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"
    assert plan.stuck == (("KUBE-SERVICES", "THEIRS -j KUBE-SERVICES"),)
    again = removal("nat", saved.replace("-A KUBE-SERVICES -j RETURN\n", ""), EVERY_OWNED)
    assert (again.text, again.stuck) == ("", plan.stuck)


@pytest.mark.parametrize(
    "chain", ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-SERVICES-X"]
)
@pytest.mark.parametrize("table", ["nat", "filter", "mangle"])
def test_a_kubelets_chains_and_others_are_not_ours(table: str, chain: str) -> None:
    saved = f"*{table}\n:INPUT ACCEPT [0:0]\n:{chain} - [0:0]\n-A INPUT -j {chain}\n"
    assert removal(table, saved, EVERY_OWNED).text == ""


class Node:
    """A fake of everything in which something may be left; ``log`` is what was done, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.restored: list[str] = []
        self.saved: dict[tuple[Family, Flavour], str] = {}
        self.missing: set[Flavour] = set()
        self.tables_in_use = frozenset(("filter", "nat"))
        self.busy: set[str] = set()
        self.servers = FakeVirtualServers()
        self.device = FakeDevice()
        self.nft = FakeNftables()
        self.nft_error: Exception | None = None
        self.sets = {family: LoggedSets(self.log, self.busy) for family in Family}
        self.sysctls = FakeSysctls({ROUTE_LOCALNET: "1"})

    def kernel(self) -> Kernel:
        return Kernel(
            tables=lambda family, flavour: FakeTables(self, family, flavour),
            sets=lambda family: self.sets[family],
            nftables=self,
            devices=self,
            servers=self.servers,
            addresses=lambda family: FakeVirtualAddresses(family, self.device),
            conntrack=lambda family: FakeConntrack(),
            counters=self,
            sysctls=self.sysctls,
            local_addresses=lambda family: (),
            nft_table=lambda family: FakeTable(family, NFT_TABLE, self.nft),
        )

    def delete_table(self, family: Family, name: str) -> bool:
        self.log.append(f"delete {family.label} {name}")
        if self.nft_error:
            raise self.nft_error
        return self.nft.tables.pop((family, name), None) is not None

    def delete(self, name: str) -> bool:
        self.log.append(f"delete {name}")
        return name not in self.busy

    def kind(self, name: str) -> str | None:
        return self.device.kind


class LoggedSets(FakeSets):
    """Sets of which those that are ``busy`` are named by a rule."""

    def __init__(self, log: list[str], busy: set[str]) -> None:
        super().__init__()
        self._log = log
        self.in_use = busy.__contains__

    def destroy(self, name: str) -> bool:
        self._log.append(f"destroy {name}")
        return super().destroy(name)


class FakeTables:
    def __init__(self, node: Node, family: Family, flavour: Flavour) -> None:
        self._node, self._family, self._flavour = node, family, flavour

    def restore(self, text: str | Iterable[str]) -> None:
        self._node.restored.append("".join(text))
        what = " mark" if MARK in text else ""
        self._node.log.append(f"restore {self._family.label} {self._flavour}{what}")

    def in_use(self) -> frozenset[str]:
        return self._node.tables_in_use

    def save(self, table: str) -> str:
        if self._flavour in self._node.missing:
            raise CommandMissing(f"iptables-{self._flavour}-save: not installed")
        text = self._node.saved.get((self._family, self._flavour), "")
        return text if text.startswith(f"*{table}") else ""


OURS = Kept(mode=Mode.IPTABLES, flavour=Flavour.NFT)


def test_ours_stays_where_it_is_and_goes_where_it_is_not() -> None:
    node = Node()
    both = IPVS_FILTER_TABLE.replace("KUBE-IPVS-FILTER", "X").replace("KUBE-NODE-PORT", "Y").replace(FIREWALL, "")
    node.saved = {(Family.V4, flavour): both for flavour in Flavour}
    assert remove(node.kernel(), [Family.V4], OURS) == Removed()
    assert [line for line in node.log if "restore" in line] == ["restore IPv4 legacy"]
    assert "destroy KUBE-LOOP-BACK" not in node.log
    assert "destroy KUBE-CLUSTER-IP" in node.log
    assert "delete IPv4 kube-proxy" in node.log


def test_where_nftables_mode_serves_all_iptables_go_and_its_table_stays() -> None:
    node = Node()
    node.saved = {(family, flavour): IPVS_FILTER_TABLE for family in Family for flavour in Flavour}
    assert remove(node.kernel(), Family, Kept(mode=Mode.NFTABLES)) == Removed()
    assert sum("restore" in line for line in node.log) == 4
    assert not any(line.endswith(" kube-proxy") for line in node.log)
    assert {f"delete {name}" for name in COUNTERS} <= set(node.log)
    for sets in (IPVS_SETS, OUR_IPVS_SETS):
        assert {f"destroy {name}" for family in Family for name in sets[family]} <= set(node.log)


def test_into_nftables_mode_what_ipvs_mode_guards_stays_guarded_while_connections_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kubeproxy.dataplane.leftovers.removal._leave", lambda *_: Left(connections=1))
    node = Node()
    node.saved = {(Family.V4, Flavour.LEGACY): IPVS_FILTER_TABLE}
    assert remove(node.kernel(), [Family.V4], Kept(mode=Mode.NFTABLES)).waiting
    guarded = guard(Family.V4, IPVS_FILTER_TABLE)
    assert node.restored[0] == guarded
    assert "-X KUBE-NODE-PORT" in node.restored[1]
    assert "KUBE-IPVS-FILTER" not in node.restored[1]
    assert "destroy KUBE-VIRTUAL-SERVERS" not in node.log


@pytest.mark.parametrize(("kept", "gone"), [(None, True), (OURS, False), (Kept(mode=Mode.NFTABLES), True)])
def test_sets_of_clients_go_unless_their_mode_serves(kept: Kept | None, gone: bool) -> None:
    node = Node()
    node.sets[Family.V4].sets = {"KUBE-SEP-AAAAAAAAAAAAAAAA": set(), "somebodys": set()}
    assert remove(node.kernel(), [Family.V4], kept) == Removed()
    assert ("destroy KUBE-SEP-AAAAAAAAAAAAAAAA" in node.log) is gone
    assert "destroy somebodys" not in node.log


def test_a_cleanup_takes_everything_in_both_families() -> None:
    node = Node()
    node.saved = {(family, flavour): IPVS_FILTER_TABLE for family in Family for flavour in Flavour}
    node.device.kind = "dummy"
    assert remove(node.kernel(), Family, None) == Removed()
    assert sum("restore" in line for line in node.log) == 4
    for sets in (IPVS_SETS, OUR_IPVS_SETS):
        assert {f"destroy {name}" for family in Family for name in sets[family]} <= set(node.log)
    assert {"delete IPv4 kube-proxy", "delete IPv6 kube-proxy"} <= set(node.log)
    counters = [f"delete {name}" for name in COUNTERS]
    assert node.log[-2:] == counters
    assert node.device.kind is None
    assert max(map(len, IPVS_SETS[Family.V6])) == 31
    assert "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS" in IPVS_SETS[Family.V6]


def test_a_device_of_another_kind_is_left_alone_and_told_once() -> None:
    node = Node()
    node.device.kind = "veth"
    node.device.foreign = {"10.0.0.1"}
    (complaint,) = remove(node.kernel(), Family, None).complaints
    assert "device kube-ipvs0 is of kind veth" in complaint
    assert node.device.foreign == {"10.0.0.1"}


def test_every_failure_is_told_and_stops_nothing_else() -> None:
    node = Node()
    node.busy.add("KUBE-IPVS-IPS")
    node.nft_error = OSError("no sockets left")
    assert remove(node.kernel(), [Family.V4], OURS).complaints == (
        "ipsets, IPv4: set KUBE-IPVS-IPS stays: delete the iptables rule that refers to it",
        "nftables, IPv4: no sockets left",
    )
    assert f"destroy {IPVS_SETS[Family.V4][-1]}" in node.log
    assert not {f"delete {name}" for name in COUNTERS} & set(node.log)  # what serves now counts in them


def test_programs_that_are_not_installed_are_passed_over() -> None:
    node = Node()
    node.missing = {Flavour.NFT}
    node.saved = {(Family.V4, flavour): IPVS_FILTER_TABLE for flavour in Flavour}
    assert remove(node.kernel(), [Family.V4], None) == Removed()
    assert [line for line in node.log if "restore" in line] == ["restore IPv4 legacy"]
    assert "delete IPv4 kube-proxy" in node.log


def test_legacy_tables_that_cannot_be_looked_into_are_told() -> None:
    node = Node()
    node.missing = set(Flavour)
    (complaint,) = remove(node.kernel(), [Family.V4], None).complaints
    assert "iptables-legacy, IPv4: legacy tables are in use, and nobody can look into them" in complaint
    assert "iptables-legacy-save: not installed" in complaint
    assert "delete IPv4 kube-proxy" in node.log
    node.tables_in_use = frozenset()
    assert remove(node.kernel(), [Family.V4], None) == Removed()


MARKED = f"*nat\n:{MARK} - [0:0]\nCOMMIT\n"


def test_the_sysctl_is_set_back_where_our_mark_is_and_the_mark_moves_with_us() -> None:
    node = Node()
    node.saved = {(Family.V4, Flavour.LEGACY): MARKED}
    assert remove(node.kernel(), Family, OURS) == Removed()
    assert [line for line in node.log if "mark" in line] == ["restore IPv4 nft mark", "restore IPv4 legacy mark"]
    assert node.sysctls.values[ROUTE_LOCALNET] == "1"
    assert remove(node.kernel(), Family, None) == Removed()
    assert node.sysctls.values[ROUTE_LOCALNET] == "0"


def test_the_sysctl_stays_without_our_mark() -> None:
    node = Node()
    assert remove(node.kernel(), Family, None) == Removed()
    assert node.sysctls.values[ROUTE_LOCALNET] == "1"


class Sweeps:
    """What a sweep finds, one answer after the other."""

    def __init__(self, *answers: Removed | Exception) -> None:
        self.left = list(answers)

    async def __call__(self) -> Removed:
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def sweeper() -> Callable[..., Sweeper]:
    def build(clock: ManualClock, *answers: Removed | Exception) -> Sweeper:
        return Sweeper(Sweeps(*answers), Family, clock)

    return build


async def test_nothing_is_removed_before_every_family_stands(sweeper: Callable[..., Sweeper]) -> None:
    one = sweeper(ManualClock(), Removed())
    task = asyncio.ensure_future(one.run())
    one.note(SyncStatus(family=Family.V4, synced=True))
    one.note(SyncStatus(family=Family.V6))
    await settle()
    assert not task.done()
    one.note(SyncStatus(family=Family.V6, synced=True))
    await task


async def test_what_is_left_is_shown_logged_once_and_tried_again(
    sweeper: Callable[..., Sweeper], caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    first, second = Removed(complaints=("set A stays",)), Removed(complaints=("set A stays", "chain B stays"))
    one = sweeper(clock, first, second, ValueError("a bug"), Removed())
    for family in Family:
        one.note(SyncStatus(family=family, synced=True))
    with caplog.at_level(logging.INFO):
        task = asyncio.ensure_future(one.run())
        await settle()
        assert one.complaints == ("set A stays",)
        await clock.step(RETRY_SECONDS)
        assert one.complaints == ("set A stays", "chain B stays")
        await clock.step(RETRY_SECONDS)
        assert "a bug" in one.complaints[0]
        await clock.step(RETRY_SECONDS)
    assert task.done()
    assert one.complaints == ()
    assert caplog.text.count("set A stays") == 1
    assert caplog.text.count("chain B stays") == 1
    assert "nothing of another proxy or mode is left" in caplog.text


async def test_what_waits_is_no_complaint_and_is_looked_at_more_and_more_rarely(
    sweeper: Callable[..., Sweeper], caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    answers = [Removed(waiting=(f"{left} connections",)) for left in (7, 6, 5, 4, 3, 2)]
    one = sweeper(clock, *answers, Removed())
    for family in Family:
        one.note(SyncStatus(family=family, synced=True))
    with caplog.at_level(logging.INFO):
        task = asyncio.ensure_future(one.run())
        await settle()
        for pause, left in ((5, 6), (10, 5), (20, 4), (40, 3), (60, 2)):
            await clock.step(pause - 0.1)
            assert one.waiting == (f"{left + 1} connections",)
            await clock.step(0.1)
            assert one.waiting == (f"{left} connections",)
            assert one.complaints == ()
        await clock.step(60)
    assert task.done()
    assert one.waiting == ()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "7 connections" in caplog.text
    assert "6 connections" not in caplog.text


def test_ipvs_is_asked_for_by_name_and_flushed() -> None:
    assert encode_family("IPVS") == b"\x03\x01\x00\x00" + attribute(2, b"IPVS\0")
    assert decode_family(bytes(4) + attribute(2, b"IPVS\0") + attribute(1, struct.pack("=H", 33))) == 33
    assert decode_family(bytes(4)) == 0
    assert encode_flush() == b"\x11\x01\x00\x00"
