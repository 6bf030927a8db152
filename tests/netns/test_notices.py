"""What the real kernel tells of others' changes, and how soon they are put right. Nothing is polled but legacy."""

import asyncio
import math
import re
import select
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from kubeproxy.clock import SystemClock
from kubeproxy.dataplane.iptables.machine import iptables_hints, others_changes
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.machine import nftables_hints
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.notices import AddressNotices, Hint, HintSource
from kubeproxy.kernel.virtual_addresses import DEVICE, VirtualAddresses
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family
from kubeproxy.model.settings import Settings
from kubeproxy.modes import parts_of
from kubeproxy.options import parse
from kubeproxy.sync.status import SyncStatus
from kubeproxy.sync.syncer import Intervals, Syncer
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.netns.test_virtual_addresses import NODE, OTHER, VIP, kind_here

pytestmark = pytest.mark.netns

WEB = ("default", "web")
SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))


@pytest.fixture
def alone() -> Iterator[LoneNamespace]:
    with lone_namespace() as namespace:
        namespace.ip("link set lo up")
        yield namespace


NFTABLES = "nftables"
"""Beside the two flavours of iptables mode."""


class Node:
    """An agent's syncer, on the real kernel of the network namespace that it is made in."""

    def __init__(self, way: str) -> None:
        flavour = None if way == NFTABLES else Flavour(way)
        parts = parts_of(parse([f"--mode={NFTABLES if flavour is None else 'iptables'}"]), flavour)
        self.world = world(service("web", "10.96.0.10", "80"), endpoint_slice("web", "80", ["10.244.0.1"]))
        self.changed = asyncio.Event()
        self.backend = parts.backend(Family.V4)
        self.looked = asyncio.Event()
        observe, loop = self.backend.observe, asyncio.get_running_loop()

        def observed() -> str:
            found = observe()
            loop.call_soon_threadsafe(self.looked.set)
            return found

        self.backend.observe = observed  # type: ignore[method-assign]
        self.watches = threading.Event()
        """Cleared, repairs wait."""
        self.watches.set()
        if (repairer := self.backend.repairer) is not None:
            repair = repairer.repair

            def delayed(*, whole: bool) -> bool:
                assert self.watches.wait(10)
                return repair(whole=whole)

            repairer.repair = delayed  # type: ignore[method-assign]
        self.syncer = Syncer(
            self.world,
            self.backend,
            SETTINGS,
            Family.V4,
            SystemClock(),
            self._ended,
            Intervals(check=math.inf, glance=parts.glance_every if flavour is Flavour.LEGACY else math.inf),
            hints=parts.hints(Family.V4),
        )
        self.tables = Iptables(SystemExec(), Family.V4, flavour or Flavour.NFT)

    def _ended(self, status: SyncStatus) -> None:
        self.changed.set()

    async def until(self, holds: Callable[[SyncStatus], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds(self.syncer.status):
                self.changed.clear()
                await self.changed.wait()

    def change(self, address: str) -> None:
        piece = endpoint_slice("web", "80", [address])
        self.syncer.touch(self.world.apply_slices({(piece.namespace, piece.name): piece}))


def with_node(alone: LoneNamespace, way: str, story: Callable[[Node], Awaitable[None]]) -> None:
    """Run a story beside a syncer that is in sync."""

    async def play() -> None:
        node = Node(way)
        task = asyncio.create_task(node.syncer.run())
        node.syncer.synced()
        await node.until(lambda status: status.synced)
        if way != Flavour.LEGACY:
            async with asyncio.timeout(30):  # what comes before the look at what was missed may be found by that
                await node.looked.wait()
        await story(node)
        assert not task.done()
        task.cancel()

    alone.run(lambda: asyncio.run(play()))


async def execute(line: str, *last: str) -> None:
    process = await asyncio.create_subprocess_exec(*line.split(), *last)
    assert await process.wait() == 0


def service_chain(node: Node) -> str:
    return next(
        line.split()[1] for line in node.tables.save("nat").splitlines() if line.startswith("-A KUBE-SVC-")
    )


FLUSHES = [
    "iptables-{} -t nat -F",
    "iptables-{} -t filter -F",
    "iptables-{} -t mangle -F KUBE-PROXY-CANARY",
]
NFT_FLUSHES = ["nft flush ruleset", "nft delete table ip mangle"]
EDITS = [
    "iptables-{} -t nat -F CHAIN",
    "iptables-{} -t nat -D CHAIN 1",
    "iptables-{} -t nat -I CHAIN -s 192.0.2.1 -j RETURN",
    "iptables-{} -t nat -F KUBE-SERVICES",
    "iptables-{} -t nat -D KUBE-SERVICES 1",
    "iptables-{} -t nat -I KUBE-SERVICES -s 192.0.2.1 -j RETURN",
    "iptables-{} -t nat -A KUBE-NODEPORTS -s 192.0.2.1 -j RETURN",
    "iptables-{} -t nat -F PREROUTING",
    "iptables-{} -t filter -F FORWARD",
    "iptables-{} -t filter -D KUBE-FORWARD 1",
    "iptables-{} -t filter -F KUBE-SERVICES",
]
NFT_EDITS = ["iptables-nft -t nat -R CHAIN 1 -s 192.0.2.1 -j RETURN", "nft flush chain ip nat KUBE-POSTROUTING"]


@pytest.mark.parametrize(
    ("flavour", "line", "is_full"),
    [
        *((flavour, line.format(flavour), True) for flavour in Flavour for line in FLUSHES),
        *((flavour, line.format(flavour), False) for flavour in Flavour for line in EDITS),
        *((Flavour.NFT, line, True) for line in NFT_FLUSHES),
        *((Flavour.NFT, line, False) for line in NFT_EDITS),
    ],
)
def test_what_somebody_removes_or_edits_is_written_again(
    alone: LoneNamespace, flavour: Flavour, line: str, is_full: bool
) -> None:
    async def story(node: Node) -> None:
        before = node.tables.save("nat"), node.tables.save("filter"), node.tables.save("mangle")
        await execute(line.replace("CHAIN", service_chain(node)) if " CHAIN" in line else line)
        await node.until(lambda status: status.drifts == 1 and status.queued_since is None)
        after = node.tables.save("nat"), node.tables.save("filter"), node.tables.save("mangle")
        assert [rules(text) for text in after] == [rules(text) for text in before]
        await node.until(lambda status: status.full_syncs == 1 + (is_full or counts(flavour)))

    with_node(alone, flavour, story)


WHOLE_TABLE_EDITS = ["nft flush ruleset", "nft delete table ip kube-proxy"]


@pytest.mark.parametrize(
    "line",
    [
        *WHOLE_TABLE_EDITS,
        "nft flush map ip kube-proxy MAP",
        "nft flush chain ip kube-proxy CHAIN",
        "nft add rule ip kube-proxy CHAIN counter",
        "nft add chain ip kube-proxy somebodys",
        "nft add element ip kube-proxy cluster-ips { 192.0.2.1 }",
        "nft add chain ip kube-proxy CHAIN { policy drop; }",
        "nft delete chain ip kube-proxy CHAIN",
        "nft rename chain ip kube-proxy CHAIN somebodys",
        "nft add set ip kube-proxy theirs { type ipv4_addr; }",
        "nft add table ip kube-proxy { flags dormant; }",
        "nft add chain ip kube-proxy theirs { type filter hook input priority 0; }",
        "nft add rule ip kube-proxy services ip saddr { 192.0.2.1, 192.0.2.2 } drop",
        "nft add rule ip kube-proxy services meta mark vmap { 1 : drop, 2 : return }",
        "nft add rule ip kube-proxy services ip saddr 192.0.2.1 jump { tcp dport 1 drop; }",
        "nft add chain ip kube-proxy theirs ; add map ip kube-proxy m "
        "{ type ipv4_addr : verdict; elements = { 192.0.2.1 : jump theirs }; }",
        "nft add chain ip kube-proxy theirs ; add rule ip kube-proxy services ip saddr vmap "
        "{ 192.0.2.1 : jump theirs }",
    ],
)
def test_what_somebody_does_to_our_table_is_put_right(alone: LoneNamespace, line: str) -> None:
    async def story(node: Node) -> None:
        before, table = listed(), handle()
        chain = re.search(r"chain (\S+) {\n\t\ttype nat", before)
        filled = re.search(r"map (\S+) {(?:(?!\n\t}).)*elements", before, re.DOTALL)
        assert chain is not None
        assert filled is not None
        command, _, braces = line.replace("CHAIN", chain[1]).replace("MAP", filled[1]).partition(" {")
        await execute(command, *([f"{{{braces}"] if braces else []))
        await node.until(lambda status: status.drifts == 1 and status.queued_since is None)
        assert sorted(listed().splitlines()) == sorted(before.splitlines())
        assert node.syncer.status.full_syncs == 1
        assert handle() == table or line in WHOLE_TABLE_EDITS  # as clients are remembered there

    with_node(alone, NFTABLES, story)


def handle() -> str:
    """Return the kernel's number of our table: another when it was replaced."""
    tables = subprocess.run(["nft", "-a", "list", "tables", "ip"], check=True, capture_output=True, text=True)
    return next(line for line in tables.stdout.splitlines() if "kube-proxy" in line)


CUT_OFF = [
    "iptables-{} -t nat -F CHAIN",
    "iptables-{} -t nat -D CHAIN 2",
    "iptables-{} -t nat -I CHAIN -j ACCEPT",
    "iptables-{} -t nat -F KUBE-SERVICES",
    "iptables-{} -t nat -I KUBE-SERVICES -j ACCEPT",
    "iptables-{} -t nat -F OUTPUT",
    "iptables-{} -t filter -I KUBE-SERVICES -j DROP",
]


@pytest.mark.parametrize(
    ("way", "line"),
    [
        *((flavour, line.format(flavour)) for flavour in Flavour for line in CUT_OFF),
        (NFTABLES, "nft delete table ip kube-proxy"),
        (NFTABLES, "nft flush map ip kube-proxy service-classes"),
        (NFTABLES, "nft delete element ip kube-proxy endpoints { 10.96.0.10 . tcp . 80 . 0 }"),
        (NFTABLES, "nft flush chain ip kube-proxy services"),
        (NFTABLES, "nft insert rule ip kube-proxy services accept"),
        (NFTABLES, "nft delete chain ip kube-proxy nat-output"),
    ],
)
def test_who_is_cut_off_by_somebody_is_served_again(alone: LoneNamespace, way: str, line: str) -> None:
    alone.ip("addr add 10.244.0.1/32 dev lo", "route add 10.96.0.0/16 dev lo")

    async def story(node: Node) -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "10.244.0.1", 80)
        assert await is_served()
        node.watches.clear()  # nobody undoes it for the moment
        command, _, braces = line.partition(" {")
        command = command.replace("CHAIN", service_chain(node)) if " CHAIN" in command else command
        await execute(command, *([f"{{{braces}"] if braces else []))
        assert not await is_served()
        node.watches.set()
        await node.until(lambda status: status.drifts == 1 and status.queued_since is None)
        assert await is_served()
        await node.until(lambda status: status.full_syncs == 1 + counts(way))
        server.close()

    with_node(alone, way, story)


def counts(way: str) -> bool:
    """Return whether a mode only counts what others have left of its rules: then a full sync follows a repair."""
    return way == Flavour.LEGACY


async def is_served() -> bool:
    """Return whether somebody answers at the Service's address."""
    try:
        async with asyncio.timeout(0.3):
            _, writer = await asyncio.open_connection("10.96.0.10", 80)
    except (TimeoutError, OSError):
        return False
    writer.close()
    return True


def listed() -> str:
    return subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout


def rules(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line.startswith("-A"))


@pytest.mark.parametrize(
    ("way", "edit"), [("nft", "iptables-nft -t nat -F PREROUTING"), (NFTABLES, "nft flush ruleset")]
)
def test_neither_our_own_changes_nor_those_of_others_rules_wake_us(
    alone: LoneNamespace, way: str, edit: str
) -> None:
    async def story(node: Node) -> None:
        looks = 0
        observe = node.backend.observe

        def counted() -> str:
            nonlocal looks
            looks += 1
            return observe()

        node.backend.observe = counted  # type: ignore[method-assign]
        await execute("iptables-nft -A FORWARD -s 192.0.2.1 -j DROP")
        await execute("iptables-nft -D FORWARD -s 192.0.2.1 -j DROP")
        await execute("nft add table ip somebody")
        await execute("nft delete table ip somebody")
        await execute("ip6tables-nft -t nat -F")
        for number in range(2, 5):
            node.change(f"10.244.0.{number}")
            await node.until(lambda status, number=number: status.syncs == number)  # type: ignore[misc]
        await execute(edit)  # what was told before has been read when this has been
        await node.until(lambda status: status.drifts == 1)
        assert looks <= 1  # after the first sync, perhaps

    with_node(alone, way, story)


@pytest.mark.parametrize(("way", "is_certain"), [("nft", True), (NFTABLES, False)])
def test_a_crowd_of_others_changes_is_told_as_lost_and_certain_where_no_look_shows_what_they_did(
    alone: LoneNamespace, monkeypatch: pytest.MonkeyPatch, way: str, is_certain: bool
) -> None:
    monkeypatch.setattr("kubeproxy.kernel.notices.ROOM_BYTES", 4096)

    def work() -> Hint | None:
        writers = Writers()
        if way == NFTABLES:
            (source,) = nftables_hints(Family.V4, writers, Journal())
        else:
            (source,) = iptables_hints(Family.V4, Flavour.NFT, writers, others_changes())
        source.open()
        subprocess.run(["iptables-nft-restore", "-n"], input=crowd(), text=True, check=True)
        return source.read()

    assert alone.run(work) == Hint("the kernel could not tell of every change", is_certain)


def crowd() -> str:
    """Return what to restore that takes more room than a small buffer has."""
    rules = "".join(f"-A FORWARD -s 192.0.2.{number % 250} -j ACCEPT\n" for number in range(2000))
    return f"*filter\n{rules}COMMIT\n"


@pytest.mark.parametrize("way", ["nft", NFTABLES])
def test_a_rule_that_is_changed_among_a_crowd_of_changes_is_put_right_at_once(
    alone: LoneNamespace, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The notices of the crowd fill the room, and that of the one rule is lost."""
    monkeypatch.setattr("kubeproxy.kernel.notices.ROOM_BYTES", 4096)

    async def story(node: Node) -> None:
        chain, table = ("services", "kube-proxy") if way == NFTABLES else (service_chain(node), "nat")
        before = await rules_of(table, chain)
        subprocess.run(["iptables-nft-restore", "-n"], input=crowd(), text=True, check=True)
        run(f"nft insert rule ip {table} {chain} return")  # nobody reads meanwhile
        await node.until(lambda status: status.drifts >= 1 and status.queued_since is None)
        assert await rules_of(table, chain) == before

    with_node(alone, way, story)


def test_what_is_dropped_without_a_word_behind_a_loss_is_found(
    alone: LoneNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One transaction fills the room, and while that is read somebody edits a rule right behind our look."""
    monkeypatch.setattr("kubeproxy.kernel.notices.ROOM_BYTES", 1 << 20)
    large = tmp_path / "large.nft"
    elements = ",".join(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(16_000))
    large.write_text(f"table ip somebody {{ set theirs {{ type ipv4_addr; elements = {{ {elements} }}; }}; }}")

    async def story(node: Node) -> None:
        before = await rules_of("kube-proxy", "services")
        observe, looked = node.backend.observe, asyncio.Event()
        loop = asyncio.get_running_loop()

        def edited_behind() -> str:
            found = observe()
            if not looked.is_set():
                run("nft insert rule ip kube-proxy services return")
                loop.call_soon_threadsafe(looked.set)
            return found

        await asyncio.to_thread(observe)
        node.backend.observe = edited_behind  # type: ignore[method-assign]
        run(f"nft -f {large}")
        async with asyncio.timeout(30):
            await looked.wait()
        await node.until(lambda status: status.drifts >= 1 and status.queued_since is None)
        assert await rules_of("kube-proxy", "services") == before

    with_node(alone, NFTABLES, story)


async def rules_of(table: str, chain: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("nft", "list", "chain", "ip", table, chain), stdout=asyncio.subprocess.PIPE
    )
    text, _ = await process.communicate()
    return text.decode()


def told(source: HintSource, ready: int) -> Hint | None:
    """Return the next hint; None when nothing comes though the kernel tells before a change returns."""
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    while poll.poll(0):
        if hint := source.read():
            return hint
    return None


@pytest.mark.parametrize("family", list(Family))
def test_what_others_do_to_virtual_addresses_is_told_and_what_we_do_is_not(
    alone: LoneNamespace, family: Family
) -> None:
    alone.ip(f"link add eth0 type {kind_here()}", f"addr add {NODE[family][0]}/{family.host_bits} dev eth0")
    alone.ip("link set eth0 up")
    vip, other = VIP[family], OTHER[family]
    ip = "-6 " if family is Family.V6 else ""

    def work() -> None:
        writers = Writers()
        addresses = VirtualAddresses(family, kind=kind_here(), writers=writers)
        source = AddressNotices(family, DEVICE, writers)
        addresses.ensure_device()
        ready = source.open()
        addresses.add([vip, other])
        addresses.remove([other])
        addresses.add([other])
        assert told(source, ready) is None
        run(f"ip {ip}route del local {vip} dev {DEVICE} table local proto 242")
        assert told(source, ready) == Hint(f"local address {vip} on device {DEVICE} was deleted by somebody", True)
        run(f"ip {ip}addr add {NODE[family][1]}/{family.host_bits} dev eth0")
        assert told(source, ready) == Hint("this node's addresses have changed", False)
        if family is Family.V4:
            run(f"ip addr add 192.0.2.77/32 dev {DEVICE}")
            assert told(source, ready) == Hint("this node's addresses have changed", False)
            run(f"ip addr del 192.0.2.77/32 dev {DEVICE}")
            assert addresses.held() == {}
            assert told(source, ready) == Hint(f"an address of device {DEVICE} was deleted by somebody", True)
        run(f"ip link set {DEVICE} down")
        hint = told(source, ready)
        assert hint is not None
        assert hint.is_certain
        run(f"ip link set {DEVICE} up")
        while told(source, ready):
            pass
        run(f"ip link del {DEVICE}")
        hint = told(source, ready)
        assert hint is not None
        assert hint.is_certain
        source.close()

    alone.run(work)


def run(line: str) -> None:
    subprocess.run(line.split(), check=True, capture_output=True)
