"""Which objects want attention: each key once, failed ones again after a growing pause.

The queue holds keys, never values: whoever takes a key looks at the newest state, so a burst of changes to one
object costs one reconciliation. Time comes from the given clock.
"""

import asyncio
from typing import Generic, TypeVar

from kubeproxy.clock import Clock

K = TypeVar("K")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 10.0


class WorkQueue(Generic[K]):
    """Keys in order of arrival. Lives on one event loop; one or several tasks may take from it."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._ready: dict[K, None] = {}
        self._pauses: dict[K, float] = {}
        self._timers: dict[K, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Ask for attention now."""
        self._ready[key] = None
        self._wake.set()

    def done(self, key: K) -> None:
        """Say that the key's reconciliation succeeded: its next failure pauses shortly again."""
        self._pauses.pop(key, None)

    def failed(self, key: K) -> float:
        """Ask for attention after a pause, twice as long as the last one, and return it."""
        pause = self._pauses.get(key, FIRST_PAUSE_SECONDS)
        self._pauses[key] = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self.add_after(key, pause)
        return pause

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for attention in a while; an earlier wish of this kind for the same key is replaced."""
        if (standing := self._timers.pop(key, None)) is not None:
            standing.cancel()
        self._timers[key] = asyncio.get_running_loop().create_task(self._later(key, seconds))

    async def _later(self, key: K, seconds: float) -> None:
        await self._clock.sleep(seconds)
        del self._timers[key]
        self.add(key)

    async def take(self) -> K:
        """Wait for a key and take it off the queue."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._ready))
        del self._ready[key]
        return key

    def close(self) -> None:
        """Forget all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
