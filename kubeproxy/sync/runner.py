"""When to sync: upstream's BoundedFrequencyRunner, single-threaded and fed a Clock.

Requests coalesce. A run starts at once when the last one ended long enough ago (``min_interval``), else when
that time is over; after a failure it is tried again after ``retry_interval`` unless a request comes first;
and it happens at least every ``max_interval``, so that nothing stays wrong for ever.

The shortest interval is there to bound what syncs cost. So a run that was cheap may be followed sooner: after
``rest`` times as long as it took. A Service and its endpoints, which come a moment after it, need not wait a
second for each other because some clusters' tables take a second to write.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

from kubeproxy.clock import Clock


class Runner:
    """Calls ``action`` until cancelled; it returns whether it succeeded."""

    def __init__(
        self,
        action: Callable[[], Awaitable[bool]],
        *,
        clock: Clock,
        min_interval: float,
        rest: float = math.inf,
        retry_interval: float,
        max_interval: float,
    ) -> None:
        self._action = action
        self._clock = clock
        self._min = min_interval
        self._rest = rest
        self._retry = retry_interval
        self._max = max(max_interval, min_interval)
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Ask for a run; any number of requests before it starts are one."""
        self._requested.set()

    async def run(self) -> None:
        """Run when asked, and when time is up."""
        interval = self._max
        shortest = self._min
        ended = self._clock.now() - self._min
        while True:
            await self._wait(ended + max(interval, self._min))
            # min_interval counts from the end of a run to the start of the next.
            pause = ended + shortest - self._clock.now()
            if pause > 0:
                await self._clock.sleep(pause)
            self._requested.clear()
            started = self._clock.now()
            succeeded = await self._action()
            interval = self._max if succeeded else min(self._retry, self._max)
            ended = self._clock.now()
            took = ended - started
            shortest = min(self._min, self._rest * took) if succeeded and took else self._min

    async def _wait(self, deadline: float) -> None:
        """Wait for a request, but no longer than until ``deadline``."""
        asked = asyncio.ensure_future(self._requested.wait())
        alarm = asyncio.ensure_future(self._clock.sleep(deadline - self._clock.now()))
        try:
            await asyncio.wait({asked, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            alarm.cancel()
