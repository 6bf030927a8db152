"""A control loop: keys that want attention, one reconciliation after the other, failed ones again later.

A write that lost a race (409, 404) is planned anew from the newer copy, an absent API server is retried with
growing pauses, and what is refused is said once.
"""

import logging
from collections.abc import Awaitable, Callable

from kubeproxy.clock import Clock
from kubeproxy.controllers.objects import Key
from kubeproxy.controllers.workqueue import WorkQueue
from kubeproxy.store.base import StoreError, Unavailable
from kubeproxy.store.kube import ApiError

log = logging.getLogger(__name__)


class ControlLoop:
    """Calls ``reconcile`` with every touched key. ``what`` names in log lines what is late when it fails.

    A key that was reconciled is left alone for ``rest`` seconds: changes that come meanwhile are one.
    """

    def __init__(
        self, what: str, reconcile: Callable[[Key], Awaitable[None]], *, clock: Clock, rest: float = 0.0
    ) -> None:
        self.what = what
        self._reconcile = reconcile
        self._clock = clock
        self._rest = rest
        self._resting: dict[Key, float] = {}
        self._waiting: set[Key] = set()
        self._queue: WorkQueue[Key] = WorkQueue(clock=clock)
        self._complained: set[Key] = set()
        self.failures = 0
        """How often a reconciliation failed and was put off."""

    @property
    def depth(self) -> int:
        """How many keys wait for a reconciliation."""
        return len(self._queue)

    def touch(self, key: Key) -> None:
        """Ask for a reconciliation."""
        now = self._clock.now()
        while self._resting and next(iter(self._resting.values())) <= now:  # the oldest stands first
            del self._resting[next(iter(self._resting))]
        if key not in self._resting:
            self._queue.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._queue.add_after(key, self._resting[key] - now)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        try:
            while True:
                key = await self._queue.take()
                self._waiting.discard(key)
                await self._attend(key)
                if self._rest:
                    self._resting.pop(key, None)
                    self._resting[key] = self._clock.now() + self._rest
        finally:
            self._queue.close()

    async def _attend(self, key: Key) -> None:
        try:
            await self._reconcile(key)
        except StoreError as error:
            if not _is_going(error):
                self._put_off(key, error)
                return
            # Its Service is deleted next: there is nothing left to do, and nothing to retry.
            log.debug("namespace %s is being deleted: no more %s for Service %s", key[0], self.what, key[1])
        self._queue.done(key)
        self._complained.discard(key)

    def _put_off(self, key: Key, error: StoreError) -> None:
        """Try again later; say so once per Service, unless it only lost a race."""
        self.failures += 1
        lost_race = isinstance(error, ApiError) and error.code in (404, 409)
        if not lost_race and not isinstance(error, Unavailable) and key not in self._complained:
            self._complained.add(key)
            log.warning("%s of Service %s/%s are late, retrying: %s", self.what, *key, error)
        self._queue.failed(key)


def _is_going(error: StoreError) -> bool:
    """The namespace is being deleted, and takes nothing new."""
    return isinstance(error, ApiError) and error.code == 403 and "NamespaceTerminating" in error.causes
