import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.sync.runner import Runner, rest_after

pytestmark = pytest.mark.unit


class Bench:
    """A runner whose action takes ``takes`` seconds of the manual clock and answers from ``answers``."""

    def __init__(self, clock: ManualClock, min_interval: float) -> None:
        self.clock = clock
        self.start = clock.now()
        self.takes = 0.0
        self.answers: list[bool] = []
        self.runs: list[float] = []
        self.runner = Runner(
            self.act, clock=clock, min_interval=min_interval, retry_interval=30, max_interval=3600
        )

    async def act(self) -> bool:
        self.runs.append(self.clock.now() - self.start)
        if self.takes:
            await self.clock.sleep(self.takes)
        return self.answers.pop(0) if self.answers else True


@asynccontextmanager
async def running(min_interval: float = 1) -> AsyncIterator[Bench]:
    bench = Bench(ManualClock(), min_interval)
    task = asyncio.create_task(bench.runner.run())
    await bench.clock.step(0)
    yield bench
    task.cancel()


async def test_nothing_runs_unasked() -> None:
    async with running() as bench:
        await bench.clock.step(100)
        assert bench.runs == []


async def test_the_first_request_runs_at_once_and_requests_coalesce() -> None:
    async with running() as bench:
        for _ in range(5):
            bench.runner.request()
        await bench.clock.step(10)
        assert bench.runs == [0]


async def test_the_minimum_counts_from_the_end_of_a_run_to_the_next_start() -> None:
    async with running() as bench:
        bench.takes = 0.5
        bench.runner.request()
        await bench.clock.step(0.1)
        bench.runner.request()
        await bench.clock.step(10)
        assert bench.runs == [0, 1.5]


async def test_without_a_minimum_what_comes_during_a_run_is_the_next_one() -> None:
    async with running(min_interval=0) as bench:
        bench.takes = 0.05
        bench.runner.request()
        await bench.clock.step(0.01)
        for _ in range(100):
            bench.runner.request()
        await bench.clock.step(10)
        assert bench.runs == pytest.approx([0, 0.05])


async def test_a_burst_without_an_end_leaves_half_of_the_time_to_others_when_runs_are_long() -> None:
    async with running(min_interval=0) as bench:
        bench.takes = 0.3
        for _ in range(160):
            bench.runner.request()
            await bench.clock.step(0.02)
        back_to_back = [0.3 * number for number in range(7)]
        assert bench.runs == pytest.approx([*back_to_back, 2.4, 3.0], abs=0.03)
        bench.runs.clear()
        await bench.clock.step(5)
        bench.runs.clear()
        for _ in range(20):
            bench.runner.request()
            await bench.clock.step(0.02)
        assert len(bench.runs) == 2  # busy times are forgotten when they are over


@pytest.mark.parametrize(
    ("took", "busy", "succeeded", "rest"),
    [
        (0.09, 9, True, 0),
        (0.7, 0.7, True, 0),
        (0.1, 2, True, 0.1),
        (0.7, 2.1, True, 0.7),
        (5, 5, True, 0),
        (5, 5.5, True, 1),
        (0.001, 0, False, 1),
    ],
)
def test_the_rest_after_a_run(took: float, busy: float, succeeded: bool, rest: float) -> None:
    assert rest_after(took, busy, succeeded=succeeded) == rest


async def test_a_failure_is_retried_later() -> None:
    async with running() as bench:
        bench.answers = [False, False, True]
        bench.runner.request()
        await bench.clock.step(100)
        assert bench.runs == [0, 30, 60]


async def test_a_request_after_a_failure_does_not_wait_for_the_retry() -> None:
    async with running() as bench:
        bench.answers = [False, True]
        bench.runner.request()
        await bench.clock.step(5)
        bench.runner.request()
        await bench.clock.step(100)
        assert bench.runs == [0, 5]


async def test_it_runs_at_least_every_maximum() -> None:
    async with running() as bench:
        bench.runner.request()
        await bench.clock.step(7300)
        assert bench.runs == [0, 3600, 7200]


@pytest.mark.parametrize("later", [0, 1, 2])
async def test_what_two_connections_bring_at_once_is_one_run(later: int) -> None:
    """A Service and its endpoints come by two watches, of which one may take the loop some turns more."""
    heard: list[int] = []
    runs: list[int] = []

    async def act() -> bool:
        runs.append(len(heard))
        return True

    runner = Runner(act, clock=ManualClock(), min_interval=0, retry_interval=30, max_interval=3600)

    async def follow(reader: asyncio.StreamReader, turns: int) -> None:
        await reader.readline()
        for _ in range(turns):
            await asyncio.sleep(0)
        heard.append(turns)
        runner.request()

    pairs = [socket.socketpair() for _ in range(2)]
    streams = [await asyncio.open_connection(sock=ours) for ours, _ in pairs]
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(runner.run())
        following = [
            tasks.create_task(follow(reader, turns))
            for (reader, _), turns in zip(streams, (0, later), strict=True)
        ]
        await asyncio.sleep(0)
        for _, theirs in pairs:
            theirs.send(b"an event\n")
        await asyncio.wait(following)
        for _ in range(10):
            await asyncio.sleep(0)
        running.cancel()
    for (_, writer), (_, theirs) in zip(streams, pairs, strict=True):
        writer.close()
        theirs.close()
    assert runs == [2]
