"""Time as a dependency: whoever waits or measures is given a Clock, so that tests step time by hand."""

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """What code may know of time."""

    def now(self) -> float:
        """Return seconds that only ever grow, from an arbitrary start."""
        ...

    def wall(self) -> float:
        """Return seconds since the Unix epoch; may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.monotonic()

    def wall(self) -> float:
        """See `Clock.wall`."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


class ManualClock:
    """Time that stands still until `step` is called; for tests, ours and our users'."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """See `Clock.now`."""
        return self._now

    def wall(self) -> float:
        """See `Clock.wall`; runs with `now`."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until `step` has carried the clock past the time asked for."""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(seconds, 0.0), next(self._order), future))
        await future

    @property
    def sleeping(self) -> int:
        """How many calls of `sleep` wait now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def step(self, seconds: float) -> None:
        """Move on, waking sleepers in the order of their times and letting each run before the next."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle(rounds: int = 20) -> None:
    """Let every task that can run do so, without any real waiting."""
    for _ in range(rounds):
        await asyncio.sleep(0)
