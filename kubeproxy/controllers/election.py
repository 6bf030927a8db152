"""Leader election: of several API servers on one store, one runs the controllers.

`Election.run` campaigns for a Lease, runs the given work while it holds it, ends the work when it does not, and
starts over. What decides is in `leases`. A lease cannot stop a process that was paused with a write half done; so
whoever works under it calls `ensure_held` before each write, and writes by resourceVersion, which a second
leader's writes would have changed.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from kubeproxy.clock import Clock
from kubeproxy.controllers.leases import Observed, Record, Timings, claim, is_taken, observe, record_of, release
from kubeproxy.controllers.objects import shape
from kubeproxy.model.timestamps import micro_timestamp
from kubeproxy.store.base import StoreError, Unavailable
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import LEASES

log = logging.getLogger(__name__)

T = TypeVar("T")
Guard = Callable[[], None]
"""Raises `LeaseLost` when the caller may not write any more."""

_JITTER = 1.2
_RELEASE_SECONDS = 2.0


class LeaseLost(Unavailable):
    """This process does not lead, or cannot know; another may have taken over."""


def unguarded() -> None:
    """Be the guard of who works alone."""


class Election:
    """A candidate for one Lease. ``identity`` names this process among all that ever ask for it.

    A process that comes back under the identity of the holder holds the lease again at once, so an identity may
    only be used again when its last process is known to have ended. Lives on one event loop.
    """

    def __init__(
        self,
        client: KubeClient,
        name: str,
        identity: str,
        *,
        clock: Clock,
        namespace: str = "kube-system",
        timings: Timings | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._timings = timings or Timings()
        self._jitter = jitter
        self._lease: dict[str, Any] = {}
        self._seen: Observed | None = None
        self._deadline = -1.0
        self._told = ""
        self.failures = 0

    @property
    def held(self) -> bool:
        """Whether this process may act now."""
        return self._clock.now() < self._deadline

    @property
    def holder(self) -> str:
        """Who held the lease when it was read last, "" for nobody."""
        return (self._seen.record.holder_identity or "") if self._seen is not None else ""

    def ensure_held(self) -> None:
        """Raise LeaseLost unless this process may write."""
        if not self.held:
            raise LeaseLost(f"lease {self._namespace}/{self._name} was not renewed in time")

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Campaign, and run ``work`` whenever elected, until cancelled; then let the lease go.

        ``work`` is cancelled, and waited for, when the lease is lost. It must not end by itself.
        """
        try:
            while True:
                await self._acquire()
                log.info("%s leads: lease %s/%s", self._identity, self._namespace, self._name)
                await self._lead(work)
                log.warning(
                    "%s lost lease %s/%s; asking for it again", self._identity, self._namespace, self._name
                )
        finally:
            await self._release()

    async def _acquire(self) -> None:
        while not await self._attempt(self._timings.renew_deadline / 2):
            await self._clock.sleep(self._timings.retry_period * (1 + _JITTER * self._jitter()))

    async def _lead(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        tasks = {asyncio.create_task(work()), asyncio.create_task(self._keep())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _keep(self) -> None:
        """Renew until the lease is lost: taken by another, or not renewed in time."""
        while self.held:
            await self._clock.sleep(min(self._timings.retry_period, self._remaining))
            if self.held:
                await self._attempt(min(self._timings.renew_deadline / 2, self._remaining))

    @property
    def _remaining(self) -> float:
        return self._deadline - self._clock.now()

    async def _attempt(self, seconds: float) -> bool:
        """Take or renew the lease, in a limited time; a failure is no more than a missed turn."""
        try:
            held = await _within(seconds, self._take_or_renew(), self._clock)
        except StoreError as error:
            self.failures += 1
            self._tell(f"cannot be had or renewed: {error}")
            return False
        self._tell(f"is held by {self.holder}" if self.holder and not held else "")
        return held

    def _tell(self, text: str) -> None:
        if text != self._told and text:
            log.log(
                logging.WARNING if text.startswith("cannot") else logging.INFO,
                "lease %s/%s %s",
                self._namespace,
                self._name,
                text,
            )
        self._told = text

    async def _take_or_renew(self) -> bool:
        if self.held and await self._write():  # nobody else has written, as a rule: one request
            return True
        if not await self._read():
            return await self._write()
        assert self._seen is not None
        if is_taken(self._seen, self._identity, self._clock.now(), self._timings):
            self._deadline = -1.0
            return False
        return await self._write()

    async def _read(self) -> bool:
        """Look at the lease; return whether there is one."""
        try:
            self._lease = await self._client.get(LEASES, self._namespace, self._name)
        except ApiError as error:
            if error.code != 404:
                raise
            self._lease, self._seen = {}, None
            return False
        self._seen = observe(self._seen, record_of(self._lease), self._clock.now())
        return True

    async def _write(self) -> bool:
        """Claim the lease as it was read; False when somebody was faster."""
        # The renewal counts from before it was sent: whoever sees it sees it later.
        sent = self._clock.now()
        record = claim(self._seen, self._identity, micro_timestamp(self._clock.wall()), self._timings)
        if not await self._put(record):
            return False
        self._deadline = sent + self._timings.renew_deadline
        return True

    async def _put(self, record: Record) -> bool:
        body = {**self._lease, "spec": {**(self._lease.get("spec") or {}), **shape(record)}}
        try:
            if self._lease:
                self._lease = await self._client.replace(LEASES, self._namespace, self._name, body)
            else:
                body |= {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"name": self._name}}
                self._lease = await self._client.create(LEASES, self._namespace, body)
        except ApiError as error:
            if error.code in (404, 409):
                return False
            raise
        self._seen = Observed(record_of(self._lease), self._clock.now())
        return True

    async def _release(self) -> None:
        """Let the lease go, when it is ours; best effort, the others would only wait longer."""
        self._deadline = -1.0
        if self._seen is None or self.holder != self._identity:
            return
        try:
            record = release(self._seen, micro_timestamp(self._clock.wall()))
            await _within(_RELEASE_SECONDS, self._put(record), self._clock)
        except StoreError as error:
            log.info("lease %s/%s could not be released: %s", self._namespace, self._name, error)


async def _within(seconds: float, work: Awaitable[T], clock: Clock) -> T:
    """Wait for an answer for a limited time, by the given clock. Raises Unavailable when it does not come."""
    answer = asyncio.ensure_future(work)
    timer = asyncio.create_task(clock.sleep(seconds))
    try:
        await asyncio.wait({answer, timer}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise Unavailable(f"no answer within {seconds:.0f} s")
    finally:
        answer.cancel()
        timer.cancel()
        await asyncio.gather(answer, timer, return_exceptions=True)
