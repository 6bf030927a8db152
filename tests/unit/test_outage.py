"""Ten minutes without an API server: informer, World and syncer together write to the kernel only what differs."""

import asyncio
import random

import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.model.addresses import Family
from kubeproxy.model.decode import decode_service
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import Service, key_of
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.store.base import Compacted, FutureRevision, StoreError, Unavailable
from kubeproxy.store.informer import Informer
from kubeproxy.store.kube_wire import Page, WatchEvent
from kubeproxy.store.resources import SERVICES
from kubeproxy.sync.syncer import Intervals, Syncer
from tests.unit.test_informer import Source, event, listing, service
from tests.unit.test_sync_syncer import Recorder

pytestmark = pytest.mark.unit

Watch = list[WatchEvent | StoreError]
SAME = (service("a", 1), service("b", 2, "10.96.0.2"), service("c", 3, "10.96.0.3"))
CHANGED = (service("a", 1), service("b", 9, "10.96.0.77"), service("new", 10, "10.96.0.4"))
WHAT_DIFFERS = {("default", name) for name in ("b", "c", "new")}
OPENED = event("OPENED", b"")
AWAY = Unavailable("refused")


class Node:
    """An agent without its rim: a scripted server in front, a recording backend behind."""

    def __init__(self) -> None:
        self.clock, self.source, self.backend = ManualClock(), Source(), Recorder()
        self.world = World()
        intervals = Intervals(check=1e9)
        self.syncer = Syncer(
            self.world, self.backend, Settings(node_name="n1"), Family.V4, self.clock, intervals=intervals
        )
        self.informer: Informer[Service] = Informer(
            self.source,
            SERVICES,
            decode_service,
            clock=self.clock,
            rng=random.Random(7),
            key_of=key_of,
            on_change=lambda batch: self.syncer.touch(self.world.apply_services(batch)),
            on_synced=self.syncer.synced,
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.syncer.run())
            tasks.create_task(self.informer.run())

    async def settled(self) -> None:
        """Let the syncer's worker thread, which runs on real time, end."""
        for _ in range(500):
            await settle(2)
            if self.syncer.status.synced and self.syncer.status.queued_since is None:
                break
            await self.clock.step(0.1)
            await asyncio.sleep(0.001)
        await settle()


@pytest.mark.parametrize(
    ("seconds", "answers", "watches", "written"),
    [
        pytest.param(600, [SAME], [], None, id="nothing changed"),
        pytest.param(600, [CHANGED], [], WHAT_DIFFERS, id="something changed"),
        pytest.param(30, [], [[OPENED]], None, id="resumed, nothing changed"),
        pytest.param(
            30, [], [[OPENED, event("MODIFIED", CHANGED[1])]], {("default", "b")}, id="resumed, one changed"
        ),
        pytest.param(30, [SAME], [[Compacted(9)]], None, id="compacted, nothing changed"),
        pytest.param(30, [CHANGED], [[Compacted(9)]], WHAT_DIFFERS, id="compacted, something changed"),
        pytest.param(30, [CHANGED], [[FutureRevision("too large")]], WHAT_DIFFERS, id="an older store"),
    ],
)
async def test_an_absence_costs_at_most_one_sync_of_what_differs(
    seconds: float, answers: list[tuple[bytes, ...]], watches: list[Watch], written: set[Key] | None
) -> None:
    node = Node()
    node.source.lists.extend([listing(5, *SAME), *[AWAY] * 1000])
    node.source.watches.extend([[AWAY]] * 1000)
    task = asyncio.create_task(node.run())
    await node.settled()
    assert node.backend.scopes == [None], "the first sync is a full one"

    await node.clock.step(seconds)
    assert node.informer.outage is not None
    assert node.backend.scopes == [None], "the kernel is left alone meanwhile"

    node.source.lists.clear()
    node.source.watches.clear()
    pages: list[Page] = [listing(4, *items) for items in answers]
    node.source.lists.extend(pages)
    node.source.watches.extend(watches)
    await node.clock.step(10)
    await node.settled()
    assert node.informer.connected
    assert node.backend.scopes[1:] == ([] if written is None else [written])
    assert set(node.world.services) == set(node.informer.cache)
    task.cancel()
