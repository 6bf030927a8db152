"""When to sync: upstream's BoundedFrequencyRunner, single-threaded and fed a Clock.

Requests coalesce. A run starts at once when the last one ended long enough ago (``min_interval``, or what that
run's length asks for, see `rest_after`), else when that time is over; what is requested while a run is in
flight is the next one. "At once" is three turns of the event loop later, so what several connections bring at
once is one run. After a failure it is tried again after ``retry_interval`` unless a request comes first; and it
happens at least every ``max_interval``, so that nothing stays wrong for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable

from kubeproxy.clock import Clock

LONG_SECONDS = 0.1
"""Runs that take longer are what others on this machine notice."""
BUSY_SECONDS = 2.0
"""So much of them in a row is followed by rests."""
LONGEST_REST_SECONDS = 1.0


def rest_after(took: float, busy: float, *, succeeded: bool) -> float:
    """Return how long to leave the machine alone after a run that took so many seconds.

    ``busy``: what this and the long runs just before it took together. A burst is over sooner without rests: what
    comes during a run is the next batch, and costs what has changed. But where each run is long (a table of
    iptables-legacy with 10,000 Services is 0.2 s of the kernel's time, and holds the lock that other programs wait
    for), changes without an end must not fill all of the time: as much of it is left to others, up to a second,
    which is upstream's minimum for all. A single run, however long, is no burst: the first one, say. After a
    failure it is that second, for its runs are full ones.
    """
    if not succeeded:
        return LONGEST_REST_SECONDS
    is_burst = took >= LONG_SECONDS and busy >= BUSY_SECONDS and busy > took
    return min(took, LONGEST_REST_SECONDS) if is_burst else 0.0


class Runner:
    """Calls ``action`` until cancelled; it returns whether it succeeded."""

    def __init__(
        self,
        action: Callable[[], Awaitable[bool]],
        *,
        clock: Clock,
        min_interval: float,
        retry_interval: float,
        max_interval: float,
    ) -> None:
        self._action = action
        self._clock = clock
        self._min = min_interval
        self._retry = retry_interval
        self._max = max(max_interval, min_interval)
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Ask for a run; any number of requests before it starts are one."""
        self._requested.set()

    async def run(self) -> None:
        """Run when asked, and when time is up."""
        interval = self._max
        shortest, busy = self._min, 0.0
        ended = self._clock.now() - self._min
        while True:
            await self._wait(ended + max(interval, self._min))
            # Counts from the end of a run to the start of the next.
            pause = ended + shortest - self._clock.now()
            if pause > 0:
                await self._clock.sleep(pause)
            self._requested.clear()
            started = self._clock.now()
            if started - ended > LONGEST_REST_SECONDS:
                busy = 0.0
            succeeded = await self._action()
            interval = self._max if succeeded else min(self._retry, self._max)
            ended = self._clock.now()
            took = ended - started
            busy = busy + took if took >= LONG_SECONDS else 0.0
            shortest = max(self._min, rest_after(took, busy, succeeded=succeeded))

    async def _wait(self, deadline: float) -> None:
        """Wait for a request, but no longer than until ``deadline``."""
        asked = asyncio.ensure_future(self._requested.wait())
        alarm = asyncio.ensure_future(self._clock.sleep(deadline - self._clock.now()))
        try:
            await asyncio.wait({asked, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            alarm.cancel()
