"""When the kernel's hints lead to looks and repairs, and how little a busy neighbour costs."""

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.kernel.notices import Hint
from kubeproxy.sync.full_syncs import FullSyncs
from kubeproxy.sync.watching import Looked, Watcher

pytestmark = pytest.mark.unit

FLUSHED = Hint("table nat was deleted by somebody (nft)", is_certain=True)
PERHAPS = Hint("this node's addresses have changed", is_certain=False)


class Source:
    """A model of what the kernel tells, over a pipe. Knob: ``refuses`` to be opened."""

    def __init__(self) -> None:
        self.refuses = False
        self.told: list[Hint | None] = []
        self.reads = self.opened = 0
        self._ends: tuple[int, int] | None = None

    def open(self) -> int:
        if self.refuses:
            raise PermissionError(1, "Operation not permitted")
        self.opened += 1
        self._ends = os.pipe()
        return self._ends[0]

    @property
    def is_open(self) -> bool:
        return self._ends is not None

    def tell(self, hint: Hint | None) -> None:
        """Let the kernel tell something (None: something that concerns nobody), if anybody listens."""
        if self._ends is not None:
            self.told.append(hint)
            os.write(self._ends[1], b"!")

    def read(self) -> Hint | None:
        assert self._ends is not None
        os.read(self._ends[0], 1000)
        self.reads += 1
        told, self.told = self.told, []
        return next((each for each in told if each), None)

    def close(self) -> None:
        for end in self._ends or ():
            os.close(end)
        self._ends = None
        self.told = []


class Bench:
    def __init__(self, every: float, sources: int, glance_every: float = math.inf) -> None:
        self.clock = ManualClock()
        self.start = self.clock.now()
        self.sources = [Source() for _ in range(sources)]
        self.events: list[tuple[str, float]] = []
        self.look_takes = self.look_waits = 0.0
        self.drift = ""
        self.glances = 0
        self.glanced: str | Exception = ""
        self.watcher = Watcher(
            self.sources,
            self._look,
            self._repair,
            clock=self.clock,
            every=every,
            glance=self._glance,
            glance_every=glance_every,
        )

    async def _glance(self) -> str:
        self.glances += 1
        if isinstance(self.glanced, Exception):
            raise self.glanced
        return self.glanced

    async def _look(self) -> Looked:
        self._note("look")
        await self.clock.sleep(self.look_waits + self.look_takes)
        return Looked(self.drift, self.look_takes)

    async def _repair(self, text: str) -> None:
        self._note(text)

    def _note(self, what: str) -> None:
        self.events.append((what, round(self.clock.now() - self.start, 2)))

    async def step(self, seconds: float) -> None:
        """Move on; the event loop notices what can be read between two of its rounds."""
        await settle(4)
        await self.clock.step(seconds)


@asynccontextmanager
async def watching(every: float = math.inf, sources: int = 1, refuses: bool = False) -> AsyncIterator[Bench]:
    bench = Bench(every, sources)
    for source in bench.sources:
        source.refuses = refuses
    task = asyncio.create_task(bench.watcher.run())
    await bench.step(0)
    yield bench
    assert not task.done()
    task.cancel()
    await settle()
    assert not any(source.is_open for source in bench.sources)


async def test_nothing_is_polled_where_the_kernel_tells_of_everything() -> None:
    async with watching() as it:
        await it.step(3600)
        assert it.events == []


async def test_a_glance_that_shows_something_leads_to_a_look_and_one_that_shows_nothing_to_none() -> None:
    bench = Bench(60, 0, glance_every=0.5)
    task = asyncio.create_task(bench.watcher.run())
    for _ in range(10):
        await bench.step(0.5)
    assert (bench.glances, bench.events) == (10, [])
    bench.glanced, bench.drift = "a table was changed", "a rule is missing"
    await bench.step(0.5)
    assert bench.events == [("look", 5.5), ("a rule is missing", 5.5)]
    bench.glanced = ""
    await bench.step(10)
    assert len(bench.events) == 2
    task.cancel()
    await settle()


async def test_a_glance_that_fails_is_told_once_and_leads_to_looks_and_others_follow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(60, 0, glance_every=0.5)
    task = asyncio.create_task(bench.watcher.run())
    bench.glanced = ValueError("a mistake")
    for _ in range(3):
        await bench.step(0.5)
    assert bench.events == [("look", 0.5), ("look", 1), ("look", 1.5)]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    bench.glanced = ""
    await bench.step(0.5)
    bench.glanced = "a table was changed"
    await bench.step(0.5)
    assert bench.events[3:] == [("look", 2.5)]
    bench.glanced = ValueError("a mistake")
    await bench.step(0.5)
    assert len(caplog.records) == 2
    task.cancel()
    await settle()


async def test_what_is_certain_is_repaired_at_once() -> None:
    async with watching() as it:
        await it.step(10)
        it.sources[0].tell(FLUSHED)
        await it.step(0)
        assert it.events == [(FLUSHED.text, 10)]


async def test_what_is_uncertain_is_looked_at_at_once() -> None:
    async with watching(every=5) as it:
        await it.step(1)
        it.sources[0].tell(PERHAPS)
        await it.step(0)
        assert it.events == [("look", 1)]
        await it.step(6)
        assert it.events == [("look", 1), ("look", 6)]


async def test_what_concerns_nobody_costs_a_reading_now_and_then() -> None:
    async with watching() as it:
        for _ in range(100):
            it.sources[0].tell(None)
            await it.step(0.001)
        await it.step(1)
        assert it.events == []
        assert it.sources[0].reads <= 4


async def test_many_hints_are_few_looks() -> None:
    async with watching() as it:
        it.look_takes = 0.05
        for _ in range(100):
            it.sources[0].tell(PERHAPS)
            await it.step(0.1)
        assert 28 <= len(it.events) <= 32  # a second's worth at once


async def test_what_a_look_waited_for_was_no_look() -> None:
    async with watching(every=1, sources=0) as it:
        it.look_waits, it.look_takes = 10, 0.01
        await it.step(12.5)
        assert it.events == [("look", 1), ("look", 12.01)]


async def test_after_a_long_look_what_is_certain_is_heard_all_the_same() -> None:
    async with watching() as it:
        it.look_takes = 2
        it.sources[0].tell(PERHAPS)
        await it.step(3)
        it.sources[0].tell(FLUSHED)
        await it.step(0)
        it.sources[0].tell(PERHAPS)
        await it.step(18.9)
        assert it.events == [("look", 0), (FLUSHED.text, 3)]
        await it.step(0.2)
        assert it.events[2:] == [("look", 22)]  # 2 s have had their part of the time, but for a second's worth


async def test_a_look_that_found_something_is_no_reason_to_look_later_for_the_next_edit() -> None:
    async with watching() as it:
        it.look_takes, it.drift = 2, "somebody flushed it"
        it.sources[0].tell(PERHAPS)
        await it.step(4)
        it.sources[0].tell(PERHAPS)
        await it.step(2.5)
        assert it.events == [("look", 0), (it.drift, 2), ("look", 4), (it.drift, 6)]


async def test_who_undoes_what_looks_repair_is_answered_ever_more_slowly_too() -> None:
    async with watching(every=0.75, sources=0) as it:
        it.drift = "somebody flushed it"
        await it.step(65)
        repairs = [at for what, at in it.events if what == it.drift]
        assert repairs == pytest.approx([0.75, 1.75, 3.75, 7.75, 15.75, 31.75, 61.75])


async def test_what_a_look_found_is_settled_when_everything_is_written_meanwhile() -> None:
    async with watching(every=0.75, sources=0) as it:
        it.drift = "somebody flushed it"
        await it.step(1.6)  # found for the second time, and waiting
        it.drift = ""
        it.watcher.settle()
        await it.step(5)
        assert [at for what, at in it.events if what != "look"] == [0.75]


async def test_who_undoes_repairs_is_answered_ever_more_slowly() -> None:
    async with watching() as it:
        for _ in range(700):
            it.sources[0].tell(FLUSHED)
            await it.step(0.1)
        times = [at for _, at in it.events]
        assert times == pytest.approx([0, 1, 3, 7, 15, 31, 61], abs=0.3)
        await it.step(120)
        it.events.clear()
        it.sources[0].tell(FLUSHED)
        await it.step(0.05)
        assert len(it.events) == 1


async def test_while_everything_is_written_anew_nobody_listens_and_then_looks_once() -> None:
    async with watching() as it:
        it.sources[0].tell(FLUSHED)
        it.watcher.suspend()
        it.watcher.settle()
        it.sources[0].tell(FLUSHED)
        await it.step(1)
        assert it.events == []
        it.watcher.resume()
        await it.step(0)
        assert it.events == [("look", 1)]
        it.sources[0].tell(FLUSHED)
        await it.step(1)
        assert it.events[1:] == [(FLUSHED.text, 1.1)]


async def test_while_either_family_is_written_anew_nobody_listens_for_either() -> None:
    full_syncs = FullSyncs()
    async with watching() as four, watching() as six:
        for each in (four, six):
            full_syncs.silence(each.watcher)
        listening = [each.sources[0] for each in (four, six)]
        with full_syncs.under_way():
            with full_syncs.under_way():
                assert not any(each.is_open for each in listening)
            assert not any(each.is_open for each in listening)
        assert all(each.is_open for each in listening)
        for each in (four, six):
            await each.step(0)
            assert each.events == [("look", 0)]
            assert each.sources[0].opened == 2


async def test_what_was_told_is_not_settled_by_what_is_written_of_the_other_family() -> None:
    async with watching() as it:
        it.watcher.note(FLUSHED)
        it.watcher.suspend()
        await it.step(0)
        assert it.events == [(FLUSHED.text, 0)]


async def test_whose_time_is_over_does_not_listen_again() -> None:
    async with watching() as it:
        it.watcher.suspend()
    it.watcher.resume()
    assert not it.sources[0].is_open


async def test_without_hints_it_is_looked_every_so_often() -> None:
    async with watching(every=1, sources=0) as it:
        await it.step(3.5)
        assert it.events == [("look", 1), ("look", 2), ("look", 3)]


async def test_a_source_that_cannot_be_opened_is_replaced_by_looks_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watching(refuses=True) as it:
        await it.step(11)
        assert it.events == [("look", 5), ("look", 10)]
        it.watcher.suspend()
        it.watcher.resume()
        assert [record.message for record in caplog.records] == [
            "the kernel does not tell of others' changes ([Errno 1] Operation not permitted); "
            "looking for them instead"
        ]
        it.sources[0].refuses = False
        it.watcher.suspend()
        it.watcher.resume()
        await it.step(20)
        assert len(it.events) == 3
