"""Waiting for what other programs, threads and tasks do: look again until it holds, with one generous deadline.

The deadline is for a machine that is busy with something else; it bounds no time that a test is about.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kubeproxy.clock import ManualClock

T = TypeVar("T")

DEADLINE_SECONDS = 30.0


def until(holds: Callable[[], T], what: str = "it holds", seconds: float = DEADLINE_SECONDS) -> T:
    """Return the first true value of ``holds``; fail with ``what`` when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; last seen: {found!r}"
        time.sleep(0.05)
    return found


async def eventually(holds: Callable[[], Awaitable[T]], seconds: float = DEADLINE_SECONDS) -> T:
    """Return the first true value that ``holds`` comes to; raises TimeoutError when it takes too long."""
    async with asyncio.timeout(seconds):
        while not (found := await holds()):
            await asyncio.sleep(0.01)
    return found


async def until_stepped(holds: Callable[[], object], clock: ManualClock | None = None, step: float = 0.5) -> None:
    """Let threads and tasks work, and a clock's time pass meanwhile, until something holds."""
    for _ in range(600):
        found = holds()
        if await found if asyncio.iscoroutine(found) else found:
            return
        if clock is not None:
            await clock.step(step)
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to hold")
