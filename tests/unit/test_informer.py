"""The informer against a scripted source: first list, changes, cut watches, relists, outages, bad objects."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.model.decode import decode_service
from kubeproxy.model.objects import Service
from kubeproxy.store.base import Compacted, FutureRevision, StoreError, Unavailable
from kubeproxy.store.informer import Informer, Key
from kubeproxy.store.kube_wire import ApiError, Page, StreamingUnsupported, WatchEvent
from kubeproxy.store.resources import SERVICES, Resource

pytestmark = pytest.mark.unit


def service(name: str, revision: int, ip: str = "10.96.0.1", namespace: str = "default") -> bytes:
    meta = {"name": name, "namespace": namespace, "resourceVersion": str(revision)}
    return msgspec.json.encode({"metadata": meta, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})


class Source:
    """Answers lists and watches from a script; an exception in the script is raised at that point."""

    def __init__(self) -> None:
        self.lists: deque[Page | StoreError] = deque()
        self.watches: deque[list[WatchEvent | StoreError]] = deque()
        self.watched_from: list[str] = []
        self.listed = 0
        self.streams = False

    async def pages(self, resource: Resource, **_: Any) -> AsyncIterator[Page]:
        self.listed += 1
        answer = self.lists.popleft()
        if isinstance(answer, StoreError):
            raise answer
        for item in answer.items:
            yield Page(items=(item,), revision=answer.revision, more="more")
        yield Page(items=(), revision=answer.revision, more="")

    async def watch(self, resource: Resource, revision: str, **_: Any) -> AsyncIterator[WatchEvent]:
        if not revision and not self.streams:
            raise StreamingUnsupported("not here")
        self.watched_from.append(revision)
        if not self.watches:
            await asyncio.Event().wait()
        for event in self.watches.popleft():
            if isinstance(event, StoreError):
                raise event
            yield event


def listing(revision: int, *items: bytes) -> Page:
    return Page(items=tuple(map(msgspec.Raw, items)), revision=str(revision), more="")


def event(kind: str, data: bytes) -> WatchEvent:
    return WatchEvent(type=kind, object=data)


class Harness:
    def __init__(self, *, optional: bool = False) -> None:
        self.source = Source()
        self.clock = ManualClock()
        self.batches: list[dict[Key, Service | None]] = []
        self.synced_after: list[int] = []
        self.informer: Informer[Service] = Informer(
            self.source,
            SERVICES,
            decode_service,
            clock=self.clock,
            rng=random.Random(7),
            on_change=self._change,
            on_synced=lambda: self.synced_after.append(len(self.batches)),
            optional=optional,
        )
        self.task: asyncio.Task[None] | None = None

    def _change(self, batch: Mapping[Key, Service | None]) -> None:
        self.batches.append(dict(batch))

    async def start(self) -> None:
        self.task = asyncio.create_task(self.informer.run())
        await settle()

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.informer.cache}


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    if harness.task:
        harness.task.cancel()


async def test_first_list_is_one_batch_then_synced(harness: Harness) -> None:
    harness.source.lists.append(listing(5, service("a", 1), service("b", 2)))
    await harness.start()
    assert [set(batch) for batch in harness.batches] == [{("default", "a"), ("default", "b")}]
    assert harness.synced_after == [1]
    assert harness.source.watched_from == ["5"]


async def test_an_empty_cluster_is_synced_too(harness: Harness) -> None:
    harness.source.lists.append(listing(5))
    await harness.start()
    assert harness.batches == []
    assert harness.synced_after == [0]


async def test_the_initial_events_of_a_watch_are_the_first_list_and_the_watch_goes_on(harness: Harness) -> None:
    harness.source.streams = True
    end = event("SYNCED", b'{"metadata":{"resourceVersion":"9"}}')
    harness.source.watches.append(
        [
            event("ADDED", service("a", 1)),
            event("ADDED", service("gone", 2)),
            event("DELETED", service("gone", 8)),
            end,
            event("ADDED", service("b", 10)),
            Unavailable("cut"),
        ]
    )
    await harness.start()
    await harness.clock.step(1)
    assert [[name for _, name in batch] for batch in harness.batches] == [["a"], ["b"]]
    assert harness.synced_after == [1]
    assert harness.source.watched_from == ["", "10"]
    assert harness.source.listed == 0


async def test_initial_events_that_are_cut_are_no_list(harness: Harness) -> None:
    harness.source.streams = True
    end = event("SYNCED", b'{"metadata":{"resourceVersion":"9"}}')
    harness.source.watches.append([event("ADDED", service("a", 1)), Unavailable("cut")])
    harness.source.watches.append([event("ADDED", service("b", 2)), end])
    await harness.start()
    assert not harness.informer.synced
    await harness.clock.step(1)
    assert harness.names == {"b"}
    assert harness.synced_after == [1]


async def test_watch_events_change_the_copy(harness: Harness) -> None:
    harness.source.lists.append(listing(5, service("a", 1)))
    harness.source.watches.append(
        [
            event("ADDED", service("b", 6)),
            event("MODIFIED", service("a", 7, "10.96.0.9")),
            event("DELETED", service("b", 8)),
        ]
    )
    await harness.start()
    assert [next(iter(batch.values())) is None for batch in harness.batches] == [False, False, False, True]
    assert harness.informer.cache["default", "a"].cluster_ips == ("10.96.0.9",)
    assert harness.names == {"a"}


async def test_a_change_of_nothing_we_read_is_not_passed_on(harness: Harness) -> None:
    harness.source.lists.append(listing(5, service("a", 1)))
    harness.source.watches.append([event("MODIFIED", service("a", 6))])
    await harness.start()
    assert len(harness.batches) == 1


async def test_a_cut_watch_resumes_where_it_was(harness: Harness) -> None:
    harness.source.lists.append(listing(5))
    harness.source.watches.append([event("ADDED", service("a", 9)), Unavailable("cut in mid-event")])
    await harness.start()
    await harness.clock.step(1)
    assert harness.source.watched_from == ["5", "9"]
    assert harness.source.listed == 1


async def test_a_bookmark_moves_the_revision_only(harness: Harness) -> None:
    harness.source.lists.append(listing(5))
    harness.source.watches.append([event("BOOKMARK", b'{"metadata":{"resourceVersion":"77"}}')])
    await harness.start()
    await harness.clock.step(1)
    assert harness.source.watched_from == ["5", "77"]
    assert harness.batches == []


@pytest.mark.parametrize("loss", [Compacted(100), FutureRevision("Too large resource version: 5, current: 2")])
async def test_a_revision_that_is_gone_or_not_there_yet_relists_and_tells_only_the_difference(
    harness: Harness, loss: StoreError
) -> None:
    harness.source.lists.append(listing(5, service("gone", 1), service("same", 2), service("moved", 3)))
    harness.source.watches.append([loss])
    harness.source.lists.append(
        listing(200, service("same", 2), service("moved", 150, "10.96.0.77"), service("new", 160))
    )
    await harness.start()
    difference = {name: value is not None for (_, name), value in harness.batches[1].items()}
    assert difference == {"gone": False, "moved": True, "new": True}
    assert harness.synced_after == [1]


async def test_lists_that_are_too_old_at_once_do_not_follow_each_other_in_a_tight_loop(harness: Harness) -> None:
    harness.source.lists.extend(listing(5) for _ in range(100))
    harness.source.watches.extend([Compacted(100)] for _ in range(100))
    await harness.start()
    for _ in range(100):
        await harness.clock.step(0.1)
    assert 3 < harness.source.listed < 12


async def test_a_server_that_is_away_at_start_is_waited_for(harness: Harness) -> None:
    harness.source.lists.extend([Unavailable("refused"), Unavailable("refused"), listing(5, service("a", 1))])
    await harness.start()
    assert not harness.informer.synced
    await harness.clock.step(1)
    assert harness.informer.synced
    assert harness.informer.failures == 2


async def test_pauses_grow_to_a_limit(harness: Harness) -> None:
    harness.source.lists.extend(Unavailable("refused") for _ in range(100))
    await harness.start()
    await harness.clock.step(60)
    # 0.1 + 0.2 + ... + 3.2 s, then one try every 5 s.
    assert 14 <= harness.source.listed <= 18


async def test_an_outage_keeps_the_last_good_copy(harness: Harness) -> None:
    harness.source.lists.append(listing(5, service("a", 1)))
    harness.source.watches.extend([Unavailable("gone")] for _ in range(10))
    await harness.start()
    await harness.clock.step(5)
    assert harness.names == {"a"}
    assert len(harness.batches) == 1


@pytest.mark.parametrize("changed", [False, True])
async def test_ten_minutes_away_cost_one_compare_and_one_batch_of_what_differs(
    harness: Harness, changed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = [service("a", 1), service("b", 2), service("c", 3)]
    after = [service("a", 1), service("b", 4, "10.96.0.77")] if changed else before
    harness.source.lists.append(listing(5, *before))
    harness.source.watches.append([Unavailable("gone")])
    harness.source.lists.extend([Unavailable("refused")] * 1000)
    harness.source.watches.extend([[Unavailable("refused")]] * 1000)
    await harness.start()
    await harness.clock.step(600)
    outage = harness.informer.outage
    assert outage is not None
    assert harness.clock.now() - outage.began == 600
    assert 100 < harness.informer.failures < 150
    harness.source.lists.clear()
    harness.source.watches.clear()
    harness.source.lists.append(listing(2, *after))
    await harness.clock.step(6)
    assert harness.informer.connected
    assert harness.informer.outage is None
    expected: list[dict[Key, bool]] = [{("default", "b"): True, ("default", "c"): False}] if changed else []
    assert [{key: value is not None for key, value in batch.items()} for batch in harness.batches[1:]] == expected
    assert harness.informer.lists == 2
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1, "said once"


async def test_a_missing_permission_is_named_once_and_tried_on(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = ApiError(403, "Forbidden", 'services is forbidden: User "me" cannot list resource "services"')
    harness.source.lists.extend([Unavailable("refused"), *[refusal] * 20, listing(5, service("a", 1))])
    await harness.start()
    await harness.clock.step(30)
    assert harness.informer.outage is not None
    assert "lacks the permission to list and watch services" in harness.informer.outage.reason
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 2, warnings
    await harness.clock.step(100)
    assert harness.informer.synced


async def test_a_collection_that_we_can_do_without_counts_as_empty_while_the_server_has_none() -> None:
    harness = Harness(optional=True)
    missing = ApiError(404, "NotFound", "the server could not find the requested resource")
    harness.source.lists.extend([missing, listing(5, service("a", 1)), missing])
    await harness.start()
    assert (harness.informer.synced, harness.informer.outage, harness.names) == (True, None, set())
    await harness.clock.step(60)
    assert harness.source.listed == 1
    await harness.clock.step(600)
    assert harness.names == {"a"}
    assert harness.task is not None
    harness.task.cancel()


async def test_it_says_whether_the_server_answers(harness: Harness) -> None:
    harness.source.lists.append(listing(5))
    harness.source.watches.extend([[Unavailable("gone")], [Unavailable("gone")], [event("OPENED", b"")]])
    await harness.start()
    assert not harness.informer.connected
    await harness.clock.step(1)
    assert harness.informer.connected


async def test_a_watch_that_ends_at_once_is_not_a_tight_loop(harness: Harness) -> None:
    harness.source.lists.append(listing(5))
    harness.source.watches.extend([] for _ in range(1000))
    await harness.start()
    await harness.clock.step(1)
    assert len(harness.source.watched_from) <= 12


async def test_a_bad_object_is_left_out_and_the_others_live(harness: Harness) -> None:
    bad = service("x'; -j ACCEPT\n", 2)
    harness.source.lists.append(listing(5, service("a", 1), bad))
    harness.source.watches.append([event("ADDED", service("b", 6)), event("MODIFIED", bad)])
    await harness.start()
    assert harness.names == {"a", "b"}
    assert list(harness.informer.rejected) == [("default", "x'; -j ACCEPT\n")]


async def test_an_object_that_turns_bad_is_withdrawn(harness: Harness) -> None:
    harness.source.lists.append(listing(5, service("a", 1)))
    broken = service("a", 6).replace(b'"ports":[', b'"ports":["nonsense",')
    harness.source.watches.append([event("MODIFIED", broken), event("MODIFIED", service("a", 7))])
    await harness.start()
    assert [next(iter(batch.values())) is None for batch in harness.batches] == [False, True, False]
    assert harness.informer.rejected == {}
