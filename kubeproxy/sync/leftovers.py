"""When to remove what other proxies left: once all that they did is done by us, and again until it works."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from kubeproxy.clock import Clock
from kubeproxy.dataplane.leftovers.removal import Removed
from kubeproxy.model.addresses import Family
from kubeproxy.sync.status import SyncStatus

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""Until what could not be removed is tried again; somebody has to do something first."""
FIRST_LOOK_SECONDS = 5.0
"""Until what waits for its end is looked at again; twice as long each time, and never longer than a retry."""


class Sweeper:
    """Awaits ``sweep``, which returns what is left, after every family's first sync. Lives on the event loop."""

    def __init__(self, sweep: Callable[[], Awaitable[Removed]], families: Iterable[Family], clock: Clock) -> None:
        self._sweep = sweep
        self._clock = clock
        self._expected = set(families)
        self._all_stand = asyncio.Event()
        self.complaints: tuple[str, ...] = ()
        """What is left and why; empty before the first sweep and once nothing is."""
        self.waiting: tuple[str, ...] = ()
        """What goes by itself when nobody needs it any more, in words."""

    def note(self, status: SyncStatus) -> None:
        """Take in how one family stands."""
        if status.synced:
            self._expected.discard(status.family)
        if not self._expected:
            self._all_stand.set()

    async def run(self) -> None:
        """Sweep until nothing is left."""
        await self._all_stand.wait()
        pause = FIRST_LOOK_SECONDS
        while True:
            found = await self._attempt()
            self._tell(found)
            self.complaints, self.waiting = found.complaints, found.waiting
            if not self.complaints and not self.waiting:
                return
            await self._clock.sleep(pause if self.waiting else RETRY_SECONDS)
            pause = min(2 * pause, RETRY_SECONDS)

    def _tell(self, found: Removed) -> None:
        for line in found.complaints:
            if line not in self.complaints:
                log.warning("left by another proxy: %s; tried again every %.0f s", line, RETRY_SECONDS)
        if not self.waiting:  # how many there are changes all the time
            for line in found.waiting:
                log.info("%s", line)
        if (self.complaints or self.waiting) and not (found.complaints or found.waiting):
            log.info("nothing of another proxy or mode is left")

    async def _attempt(self) -> Removed:
        try:
            return await self._sweep()
        except Exception as bug:
            # A mistake of ours here is no reason to stop serving.
            if not self.complaints:
                log.exception("removing what other proxies left ran into an error of kubeproxy's own")
            return Removed(complaints=(f"kubeproxy's own error: {bug!r}",), waiting=self.waiting)
