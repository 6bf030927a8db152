"""Makes the kernel hold what the backend wants, and keeps it so.

Level-triggered: leases that changed, a device that somebody deleted and the clock all lead to the same pass:
read what stands, `plan`, apply. A refused step is counted, logged once and tried again; the others are done.
"""

import asyncio
import logging
from collections.abc import Awaitable

from flannel.backends.base import Backend
from flannel.lease import Lease
from flannel.overlay import plan
from kubeproxy.clock import Clock
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.interfaces import InterfaceError, Interfaces

log = logging.getLogger(__name__)

CHECK_SECONDS = 10.0
"""How often the kernel is compared even if nothing is known to have happened (flannel: host-gw only, 10 s)."""

QUIET_SECONDS = 0.2
"""Changes that come within this time make one pass."""

REST = 10
"""A host where links and routes change all the time may cost a tenth of one core at most."""

RETRY_SECONDS = 1.0


class Reconciler:
    """Drives one backend. Lives on the event loop; the kernel is spoken to in a worker thread."""

    def __init__(self, backend: Backend, interfaces: Interfaces, clock: Clock) -> None:
        self.in_step = asyncio.Event()
        """Set while the kernel held everything at the last look."""
        self.linked = asyncio.Event()
        """Set while the overlay's devices stood at the last look; one peer's bad entry must not stop a node."""
        self.passes = 0
        self.steps = 0
        self.failures = 0
        self._backend = backend
        self._interfaces = interfaces
        self._clock = clock
        self._state: tuple[Lease, tuple[Lease, ...]] | None = None
        self._wake = asyncio.Event()
        self._complaints: frozenset[str] = frozenset()

    def want(self, own: Lease, peers: tuple[Lease, ...]) -> None:
        """Set the leases that the kernel should follow from now on."""
        self._state = (own, peers)
        self._wake.set()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        end = self._interfaces.watch_changes(self._wake.set)
        try:
            while True:
                self._wake.clear()
                started = self._clock.now()
                settled = await self.reconcile()
                took = self._clock.now() - started
                await self._woken_or_after(CHECK_SECONDS if settled else RETRY_SECONDS)
                await self._clock.sleep(max(QUIET_SECONDS, took * REST))
        finally:
            end()

    async def reconcile(self) -> bool:
        """Make one pass; True when the kernel holds all that is wanted."""
        if self._state is None:
            return True
        self.passes += 1
        linked, refused = False, frozenset[str]()
        try:
            linked, refused = await asyncio.to_thread(self._write, *self._state)
        except (KernelError, OSError) as error:
            refused = frozenset({str(error)})
        self._report(refused)
        settled = linked and not refused
        for event, holds in ((self.linked, linked), (self.in_step, settled)):
            event.set() if holds else event.clear()
        return settled

    def _write(self, own: Lease, peers: tuple[Lease, ...]) -> tuple[bool, frozenset[str]]:
        """Return whether all devices stand afterwards, and what was refused."""
        desired = self._backend.wiring(own, peers)
        observed = self._interfaces.read(self._backend.scope.links())
        steps = plan(desired, observed, self._backend.scope)
        refused: list[InterfaceError] = []
        if steps:
            log.log(logging.INFO if self.passes == 1 else logging.DEBUG, "kernel: %d steps to do", len(steps))
            self.steps += len(steps)
            refused = self._interfaces.apply(steps)
            observed = self._interfaces.read(link.name for link in desired.links)
        standing = {link.name for link in observed.links}
        # A TUN that its forwarder has not made yet is no complaint, but nothing is settled without it.
        linked = all(link.name in standing for link in desired.links)
        return linked, frozenset(str(error) for error in refused)

    def _report(self, refused: frozenset[str]) -> None:
        for complaint in sorted(refused - self._complaints):
            log.error("%s; trying again every %.0f s", complaint, RETRY_SECONDS)
        if self._complaints and not refused:
            log.info("the kernel holds everything again")
        self.failures += len(refused)
        self._complaints = refused

    async def _woken_or_after(self, seconds: float) -> None:
        waits: list[Awaitable[object]] = [self._wake.wait(), self._clock.sleep(seconds)]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
