"""When to remove what other proxies left: once all that they did is done by us, and again until it works."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from kubeproxy.clock import Clock
from kubeproxy.model.addresses import Family
from kubeproxy.sync.syncer import SyncStatus

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""Until what could not be removed is tried again; somebody has to do something first."""


class Sweeper:
    """Awaits ``sweep``, which returns complaints, after every family's first sync. Lives on the event loop."""

    def __init__(
        self, sweep: Callable[[], Awaitable[Sequence[str]]], families: Iterable[Family], clock: Clock
    ) -> None:
        self._sweep = sweep
        self._clock = clock
        self._waiting = set(families)
        self._all_stand = asyncio.Event()
        self.complaints: tuple[str, ...] = ()
        """What is left and why; empty before the first sweep and once nothing is."""

    def note(self, status: SyncStatus) -> None:
        """Take in how one family stands."""
        if status.synced:
            self._waiting.discard(status.family)
        if not self._waiting:
            self._all_stand.set()

    async def run(self) -> None:
        """Sweep until nothing is left."""
        await self._all_stand.wait()
        while True:
            complaints = await self._attempt()
            for line in complaints:
                if line not in self.complaints:
                    log.warning("left by another proxy: %s; tried again every %.0f s", line, RETRY_SECONDS)
            if self.complaints and not complaints:
                log.info("nothing of another proxy is left")
            self.complaints = complaints
            if not complaints:
                return
            await self._clock.sleep(RETRY_SECONDS)

    async def _attempt(self) -> tuple[str, ...]:
        try:
            return tuple(await self._sweep())
        except Exception as bug:
            # A mistake of ours here is no reason to stop serving.
            if not self.complaints:
                log.exception("removing what other proxies left ran into an error of kubeproxy's own")
            return (f"kubeproxy's own error: {bug!r}",)
