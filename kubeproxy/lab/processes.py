"""Keeping a lab's programs running: start, log, notice the end, start again.

A program that dies is started again after a tenth of a second, so that killing one is a thing to play with; one
that keeps dying waits twice as long each time, up to MAX_DELAY, and is back at the beginning once it has run
for STEADY_SECONDS. How a program is started is passed in, and so is time.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from kubeproxy.clock import Clock

log = logging.getLogger(__name__)

FIRST_DELAY = 0.1
MAX_DELAY = 10.0
STEADY_SECONDS = 10.0


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """A program to keep running."""

    name: str
    """Its log is logs/NAME.log."""
    machine: str
    """Whose network namespace it runs in."""
    argv: tuple[str, ...]
    sockets: tuple[int, ...] = ()
    """Descriptors that it inherits, at every start anew."""
    environment: Mapping[str, str] = MappingProxyType({})
    """Variables of its own, beside the lab's."""


class Running(Protocol):
    """A started program; asyncio's Process is one."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    async def wait(self) -> int:
        """Wait until it ends and return its status, -N for signal N."""
        ...


Start = Callable[[Spec], Awaitable[Running]]


def delay(failures: int) -> float:
    """Return how long to wait before the start that follows the ``failures``-th end in a row."""
    return min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), MAX_DELAY)


class Keeper:
    """Keeps one program running until cancelled."""

    def __init__(self, spec: Spec, start: Start, clock: Clock, on_change: Callable[[], None]) -> None:
        self.spec = spec
        self.pid = 0
        self.restarts = 0
        self.state = "Waiting"
        self.failures = 0
        """How many times in a row it has ended soon, or could not be started."""
        self._start = start
        self._clock = clock
        self._on_change = on_change
        self._started_at: float | None = None

    async def run(self) -> None:
        """Start it, again and again."""
        while True:
            self._started_at = None
            end = await self._once()
            steady = self._started_at is not None and self._clock.now() - self._started_at >= STEADY_SECONDS
            self.failures = 1 if steady else self.failures + 1
            pause = delay(self.failures)
            log.warning("%s %s; it starts again in %.1f s", self.spec.name, end, pause)
            self._say(0, f"Restarting ({end})")
            await self._clock.sleep(pause)
            self.restarts += 1

    async def _once(self) -> str:
        try:
            process = await self._start(self.spec)
        except OSError as error:
            return f"cannot be started: {error}"
        self._started_at = self._clock.now()
        self._say(process.pid, "Running")
        status = await process.wait()
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def _say(self, pid: int, state: str) -> None:
        self.pid, self.state = pid, state
        self._on_change()
