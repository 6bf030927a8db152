"""Whatever others do to nftables mode's table beside our own changes, in the end it is ours: on the real kernel.

Here the kernel itself tells of the edits; `tests/property/test_nftables_told.py` has a model do that.
"""

import contextlib
import random
import subprocess
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.machine import nftables_hints
from kubeproxy.dataplane.nftables.names import VERDICT_MAPS
from kubeproxy.dataplane.nftables.phrases import ACCEPT, jump
from kubeproxy.kernel.nf_tables.base import NAME, Refused
from kubeproxy.kernel.nf_tables.expressions import Counter, Decide, VerdictWord
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Chain,
    Change,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    Element,
    Field,
    FlushChain,
    FlushSet,
    Rule,
    SetSpec,
)
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import ServiceType, TrafficPolicy
from tests.backend_node import BackendNode
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.nftables_node import Node, web, web_slice
from tests.property.nftables_bed import described
from tests.property.runs import HISTORIES, PATIENCE, STEPS, runs
from tests.unit.test_nftables_repairs import cluster

pytestmark = [pytest.mark.netns, PATIENCE]

ADDRESSES = {"web": "10.96.0.1", "shop": "10.96.0.2", "db": "10.96.0.3", "none": "10.96.0.4"}
NEW_NAMES = ["renamed", "theirs", "cluster-3", "pick-2"]
SAID = [
    f"add rule ip {NAME} services ip saddr {{ 192.0.2.1, 192.0.2.2 }} drop",
    f"add rule ip {NAME} services ip saddr 192.0.2.1 jump {{ tcp dport 1 drop; }}",
    f"add element ip {NAME} cluster-ips {{ * }}",
    f"add element ip {NAME} service-classes {{ * : 6b00:1 }}",
    f"insert rule ip {NAME} nat-output accept",
    "add table ip other; delete table ip other",
]
"""Edits that only nft has words for."""


@pytest.fixture(scope="module")
def namespace() -> Iterator[LoneNamespace]:
    with lone_namespace() as built:
        yield built


class HeardNode(Node):
    """See `Node`; over the kernel, and told by it what others do, as the agent is (`sync/watching.py`)."""

    def restart(self) -> None:
        writers, journal = Writers(), Journal()
        self.ours = KernelTable(Family.V4, writers=writers)
        self.theirs = KernelTable(Family.V4)
        self.backend = NftablesBackend(self.ours, FakeSysctls(), Family.V4, journal=journal)
        self.journal = journal
        (self.hints,) = nftables_hints(Family.V4, writers, journal)
        self.sync()

    def sync(self) -> None:
        """Do a full sync, while which nobody listens, and look at what was missed."""
        self.hints.close()
        assert not self.full().quarantined
        self.hints.open()
        self.look()

    def look(self) -> None:
        if self.backend.observe():
            self.put_right()

    def put_right(self) -> None:
        if self.backend.repair(whole=False):
            return
        self.hints.close()
        is_done = self.backend.repair(whole=True)
        self.hints.open()
        if is_done:
            self.look()
        else:
            self.sync()

    def listen(self) -> None:
        hint = self.hints.read()
        if hint is not None and hint.is_certain:
            self.put_right()
        elif hint is not None:
            self.look()

    def miss(self) -> None:
        """Lose what was told until now, and hear that something was lost."""
        self.hints.read()
        self.journal.lost()
        self.look()

    def change(self, draw: random.Random) -> None:
        """Let the API server tell of something."""
        name, touched = draw.choice(sorted(ADDRESSES)), set[Key]()
        if draw.random() < 0.25:
            touched |= self.world.apply_services({("default", name): None})
        else:
            fields: dict[str, object] = {}
            if draw.random() < 0.5:
                fields |= {"session_affinity": True, "affinity_seconds": draw.choice([60, 10800])}
            if name == "shop":
                fields |= {"node_port": 30080, "type": ServiceType.LOAD_BALANCER}
                fields |= {"load_balancer_ips": ("203.0.113.1",), "external_policy": draw.choice([*TrafficPolicy])}
                fields |= {"source_ranges": draw.choice([(), ("192.0.2.0/24",), ("198.51.0.0/16", "10.0.0.0/8")])}
            touched |= self.world.apply_services({("default", name): web(name, ADDRESSES[name], **fields)})
            places = {(draw.randint(1, 2), draw.randint(1, 8)) for _ in range(draw.randint(1, 5))}
            piece = web_slice(*[f"10.244.{n}.{i}@node{n}" for n, i in sorted(places)], name=name)
            touched |= self.world.apply_slices({(piece.namespace, piece.name): piece})
        try:
            BackendNode.partial(self, touched)
        except SyncFailed:
            self.sync()

    def meddle(self, draw: random.Random) -> None:
        """Let somebody else change something, if the kernel lets them."""
        match draw.randint(0, 11):
            case 0 | 1 if chains := sorted(self.theirs.chains()):
                said = f"rename chain ip {NAME} {draw.choice(chains)} {draw.choice(NEW_NAMES)}"
            case 2:
                said = draw.choice(SAID)
            case _:
                with contextlib.suppress(Refused):
                    some = [step for _ in range(draw.choice([1, 1, 2, 4])) for step in self._edit(draw)]
                    self.theirs.commit(some)
                return
        subprocess.run(["nft", "-f", "-"], input=said, text=True, check=False, capture_output=True)

    def _edit(self, draw: random.Random) -> list[Change]:
        sets, chains = self.theirs.sets(), sorted(self.theirs.chains())
        if not sets or not chains:
            return [AddTable("theirs", dormant=draw.random() < 0.3)]
        name, chain = draw.choice(sorted(sets)), draw.choice(chains)
        held = list(self.theirs.elements(name))
        one = draw.choice(held) if held else Element(b"")
        other = msgspec.structs.replace(one, comment=draw.choice(["", "x", one.comment]))
        strange = msgspec.structs.replace(one, key=draw.randbytes(4) + one.key[4:])
        code = bytes((draw.randint(1, 4), 0, 0, 0x6B))
        lead = Element(code, Decide(draw.choice([VerdictWord.GOTO, VerdictWord.JUMP]), chain))
        about_elements: list[list[Change]] = [
            [DeleteElements(name, [one])],
            [FlushSet(name)],
            [DeleteElements(name, [one]), AddElements(name, [other])],
            [AddElements(name, [strange])] if name not in VERDICT_MAPS else [AddElements(name, [lead])],
        ]
        about_others: list[list[Change]] = [
            [FlushChain(chain)],
            [AddRule(Rule(chain, (draw.choice([ACCEPT, Counter()]),)))],
            [AddChain(Chain(draw.choice(["theirs", "others"])))],
            [AddChain(Chain("theirs")), AddRule(Rule(chain, (jump("theirs"),)))],
            [AddSet(SetSpec(name=draw.choice(["theirs", "firewall-sources-24"]), key=(Field.ADDRESS,)))],
            [DeleteSet(name)],
            [FlushChain(chain), DeleteChain(chain)],
            [DeleteTable()],
            [DeleteTable(), AddTable("theirs", dormant=draw.random() < 0.6)],
            [AddTable(dormant=draw.random() < 0.6)],
        ]
        return draw.choice(about_elements if held and draw.random() < 0.5 else about_others)

    def stop(self) -> None:
        self.hints.close()
        with contextlib.suppress(Refused):
            self.theirs.commit([DeleteTable()])
        self.theirs.close()
        self.ours.close()


@runs(HISTORIES // 2)
@given(st.randoms(use_true_random=False))
def test_whatever_others_do_the_table_is_ours_in_the_end(namespace: LoneNamespace, draw: random.Random) -> None:
    def work() -> None:
        node = HeardNode(*cluster())
        try:
            for _ in range(draw.randint(3, 3 * STEPS)):
                match draw.randint(0, 11):
                    case 0 | 1 | 2 | 3:
                        node.meddle(draw)
                    case 4 | 5 | 6:
                        node.change(draw)
                    case 7 | 8 | 9:
                        node.listen()
                    case 10:
                        node.miss()
                    case 11:
                        node.look()
            for _ in range(4):
                node.listen()
                node.look()
            assert not node.ours.is_dormant()
            have = described(node.ours)
            node.sync()
            assert have == described(node.ours)
        finally:
            node.stop()

    namespace.run(work)
