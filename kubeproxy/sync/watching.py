"""When to look whether somebody else changed our state in the kernel: as soon as the kernel hints at it.

Where it tells of every change nothing is polled; what it does not tell of (IPVS, ipsets, iptables-legacy) is
looked at every so often. A source that cannot be opened, or none, leaves the polling. Lives on the event loop.

A busy neighbour must not keep us busy: what comes within `READ_PAUSE_SECONDS` of the last reading is read
together, looks take a small part of the time, and who undoes our repairs again and again is answered ever more
slowly, whether a hint or a look found that out.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from kubeproxy.clock import Clock
from kubeproxy.kernel.notices import Hint, HintSource

log = logging.getLogger(__name__)

READ_PAUSE_SECONDS = 0.05
"""Between readings of what the kernel told."""
LEAST_PAUSE_SECONDS = 0.1
"""From the end of a look or a repair to whatever is next."""
REST_AFTER_LOOK = 20
"""Looks that find nothing take one part in so many of the time at most; hints that need no look do not wait."""
LOOKS_AT_ONCE_SECONDS = 1.0
"""So much of looks may come before the rest that they ask for: somebody's first changes are seen at once."""
FIRST_PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 1.0, 30.0
"""Until another repair after one; twice as long each time, until there was none for a minute."""
QUIET_SECONDS = 60.0

FALLBACK_SECONDS = 5.0
"""Between looks where hints were to make them needless and cannot be had."""

MISSED = Hint("nobody listened for a while", is_certain=False)


class Looked(NamedTuple):
    """What a look has found."""

    drift: str
    """What is not as it was written, "" when all is."""
    seconds: float
    """How long the look itself took, without what it waited for before."""


class Watcher:
    """Calls ``look`` when it may be worth it, ``repair`` with what is certainly wrong. `run` until cancelled."""

    def __init__(
        self,
        sources: Sequence[HintSource],
        look: Callable[[], Awaitable[Looked]],
        repair: Callable[[str], Awaitable[None]],
        *,
        clock: Clock,
        every: float,
        glance: Callable[[], Awaitable[str]] | None = None,
        glance_every: float = math.inf,
    ) -> None:
        """See the class; ``every``: seconds between looks without any hint, infinite for none.

        ``glance``, which is short, says every so often why it is worth a look, "" when it is not; that it fails is
        worth one too, and told once.
        """
        self._sources = sources
        self._look = look
        self._repair = repair
        self._clock = clock
        self._every = every
        self._glance = glance
        self._glance_every = glance_every
        self._open: dict[int, HintSource] = {}
        """By what is waited for."""
        self._resting: dict[int, asyncio.Task[None]] = {}
        self._is_running = self._is_suspended = False
        self._writings = 0
        """How often everything was written anew."""
        self._hint: Hint | None = None
        self._hinted = asyncio.Event()
        self._ended = clock.now()
        """When the last look or repair ended."""
        self._rested = -math.inf
        """When the looks until now will have had their part of the time."""
        self._repaired = -math.inf
        self._patience = 0.0
        self._complaint = self._glance_complaint = ""

    async def run(self) -> None:
        """Watch until cancelled."""
        self._is_running = True
        if not self._is_suspended:
            self._listen()
        glances = asyncio.ensure_future(self._glance_again())
        try:
            self._ended = self._clock.now()
            while True:
                hint = await self._next()
                drift = hint.text if hint is not None and hint.is_certain else await self._find()
                if drift and await self._be_patient():
                    await self._repair(drift)
                self._ended = self._clock.now()
                await self._clock.sleep(LEAST_PAUSE_SECONDS)
        finally:
            self._is_running = False
            glances.cancel()
            self._close()

    async def _glance_again(self) -> None:
        while self._glance is not None and self._glance_every != math.inf:
            await self._clock.sleep(self._glance_every)
            if self._hint is None and (why := await self._glanced(self._glance)):
                self.note(Hint(why, is_certain=False))

    async def _glanced(self, glance: Callable[[], Awaitable[str]]) -> str:
        """Glance; return what makes it worth a look."""
        complaint = why = ""
        try:
            why = await glance()
        except Exception as bug:  # A mistake in a glance must neither end the others nor hide what they are for.
            why = complaint = f"a glance at the kernel's state failed: {bug!r}"
            if complaint != self._glance_complaint:
                log.exception("a glance at the kernel's state failed; looking at all of it instead")
        self._glance_complaint = complaint
        return why

    def settle(self) -> None:
        """Forget what was told so far, because everything that it may be about is written anew."""
        self._writings += 1
        self._hint = None

    def suspend(self) -> None:
        """Stop listening; what was told before is not forgotten."""
        self._is_suspended = True
        self._close()

    def resume(self) -> None:
        """Listen again, and look for what was missed."""
        self._is_suspended = False
        if self._is_running and self._sources:
            self._listen()
            self.note(MISSED)

    def _listen(self) -> None:
        for source in self._sources:
            try:
                found = source.open()
            except OSError as error:
                self._complain(f"the kernel does not tell of others' changes ({error}); looking for them instead")
                self._close()
                return
            self._open[found] = source
            asyncio.get_running_loop().add_reader(found, self._read, found)
        self._complaint = ""

    def note(self, hint: Hint) -> None:
        """Take in a hint; what is certain goes before what is not."""
        if self._hint is None or (hint.is_certain and not self._hint.is_certain):
            self._hint = hint
        self._hinted.set()

    @property
    def _interval(self) -> float:
        return self._every if self._open or not self._sources else min(self._every, FALLBACK_SECONDS)

    def _read(self, ready: int) -> None:
        source = self._open[ready]
        asyncio.get_running_loop().remove_reader(ready)
        self._resting[ready] = asyncio.ensure_future(self._read_again(ready))
        hint = source.read()
        if hint is not None:
            self.note(hint)

    async def _read_again(self, ready: int) -> None:
        await self._clock.sleep(READ_PAUSE_SECONDS)
        del self._resting[ready]
        asyncio.get_running_loop().add_reader(ready, self._read, ready)

    def _close(self) -> None:
        for task in self._resting.values():
            task.cancel()
        self._resting.clear()
        for ready, source in self._open.items():
            asyncio.get_running_loop().remove_reader(ready)
            source.close()
        self._open.clear()

    async def _next(self) -> Hint | None:
        """Wait for a hint that needs no look, or until it is time to look; return the hint that there is."""
        while True:
            hint, now = self._hint, self._clock.now()
            reason = now if hint is not None else self._ended + self._interval
            # After everything was written it is mostly a question whether somebody came between.
            due = reason if hint is MISSED else max(reason, self._rested - REST_AFTER_LOOK * LOOKS_AT_ONCE_SECONDS)
            if due <= now or (hint is not None and hint.is_certain):
                self._hint = None
                return hint
            self._hinted.clear()
            await self._wait(due - now)

    async def _find(self) -> str:
        """Look; return what is wrong."""
        drift, seconds = await self._look()
        if not drift:  # else it was not in vain, and how often that may be is up to patience
            self._rested = max(self._rested, self._clock.now()) + REST_AFTER_LOOK * seconds
        return drift

    async def _be_patient(self) -> bool:
        """Wait before another repair if the last ones were undone; return whether it is needed still."""
        writings = self._writings
        since = self._clock.now() - self._repaired
        if since > QUIET_SECONDS:
            self._patience = 0.0
        elif since < self._patience:
            await self._clock.sleep(self._patience - since)
        if writings != self._writings:
            return False
        self._repaired = self._clock.now()
        self._patience = min(max(2 * self._patience, FIRST_PATIENCE_SECONDS), MOST_PATIENCE_SECONDS)
        return True

    async def _wait(self, seconds: float) -> None:
        """Wait for a hint, but no longer than so many seconds."""
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._hinted.wait())}
        if seconds != math.inf:
            waits.add(asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning("%s", complaint)
            self._complaint = complaint
