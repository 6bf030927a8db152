"""The node's agent in this process, as `app.py` puts it together, between an API server in memory and a kernel.

From a watch event's bytes (decoded, stripped, put into the World, noticed by the syncer) to the backend's word
that the kernel holds it: what a user waits for, less the network. No interval is waited for (minSyncPeriod 0).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import NamedTuple

import cluster
import msgspec
from feed import Feed
from figures import Size
from subject import FAMILY, Subject
from watched import Watched

from kubeproxy.app import Agent
from kubeproxy.clock import SystemClock
from kubeproxy.dataplane.base import Backend, Change
from kubeproxy.kernel.families import HostFamilies
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import Key
from kubeproxy.model.runs import difference
from kubeproxy.options import parse
from kubeproxy.store.resources import Resource

DEADLINE_SECONDS = 600.0


class Event(NamedTuple):
    """One watch event."""

    resource: Resource
    kind: str
    data: bytes


class AgentBed:
    """A running agent; see `running`."""

    def __init__(self, feed: Feed, kernel: Backend, *, real: bool) -> None:
        self._feed = feed
        self.backend = Watched(kernel, self._arrived, observable=real)
        self._loop = asyncio.get_running_loop()
        self._awaited: dict[Key, tuple[str, asyncio.Future[float]]] = {}
        self.first_sync: asyncio.Future[float] = self._loop.create_future()
        """When the whole cluster was in the kernel."""
        self._whole: asyncio.Future[float] | None = None

    def tell(self, key: Key, address: str, events: Iterable[Event]) -> tuple[float, asyncio.Future[float]]:
        """Send events that give a Service an endpoint; return when, and when the kernel will have had it.

        By time.perf_counter, both.
        """
        future: asyncio.Future[float] = self._loop.create_future()
        self._awaited[key] = address, future
        told = time.perf_counter()
        self.send(events)
        return told, future

    def send(self, events: Iterable[Event]) -> None:
        """Send events that nobody waits for."""
        for event in events:
            self._feed.tell(*event)

    async def latency(self, key: Key, address: str, events: Iterable[Event]) -> float:
        """Send events, and return the seconds until the kernel held their endpoint."""
        told, arrival = self.tell(key, address, events)
        return await asyncio.wait_for(arrival, DEADLINE_SECONDS) - told

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Have nobody look at the kernel while others write there, and take back what they wrote."""
        before, self.backend.observable = self.backend.observable, False
        try:
            yield
        finally:
            self.backend.observable = before

    def whole_again(self) -> asyncio.Future[float]:
        """Return when the kernel will next have been made to hold everything; by time.perf_counter."""
        self._whole = self._loop.create_future()
        return self._whole

    def _arrived(self, changes: list[Change] | None, at: float) -> None:
        """See `Watched`; called in the agent's worker thread."""
        self._loop.call_soon_threadsafe(self._note, changes, at)

    def _note(self, changes: list[Change] | None, at: float) -> None:
        if not self.first_sync.done():
            self.first_sync.set_result(at)
        elif changes is None and self._whole is not None:
            if not self._whole.done():
                self._whole.set_result(at)
        elif changes is None:
            for _, future in self._awaited.values():
                future.set_exception(RuntimeError("a full sync came between; the agent's log says why"))
            self._awaited.clear()
        for change in changes or ():
            key = change.name.namespace, change.name.name
            address, future = self._awaited.get(key, ("", None))
            if future and change.after and address in _come(change.before, change.after):
                del self._awaited[key]
                future.set_result(at)


def _come(before: ServiceState | None, after: ServiceState) -> set[str]:
    """Return the addresses of endpoints that a change brings."""
    _, come = difference(before.cluster if before else (), after.cluster)
    return {each.address for each in come.values()}


@contextlib.asynccontextmanager
async def running(subject: Subject, size: Size, *, real: bool) -> AsyncIterator[AgentBed]:
    """Run an agent in this namespace, over its kernel or over none; yields once the whole cluster is in."""
    kernel = subject.parts.backend(FAMILY) if real else subject.null_backend()
    bed = AgentBed(feed := Feed(size), kernel, real=real)
    mode = subject.parts.mode
    options = parse(
        [
            f"--mode={mode}",
            f"--hostname-override={cluster.NODE_NAME}",
            f"--cluster-cidr={cluster.CLUSTER_CIDR}",
            "--iptables-min-sync-period=0s",
            "--ipvs-min-sync-period=0s",
        ]
    )
    hints = subject.parts.hints if real else lambda family: ()
    parts = msgspec.structs.replace(subject.parts, backend=lambda family: bed.backend, hints=hints)
    agent = Agent(options, feed, parts, HostFamilies(served=(FAMILY,)), SystemClock())  # type: ignore[arg-type]
    task = asyncio.create_task(agent.run())
    try:
        done, _ = await asyncio.wait(
            (task, bed.first_sync), timeout=DEADLINE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if bed.first_sync not in done:
            raise SystemExit(f"{subject.name}: no sync of {size} within {DEADLINE_SECONDS:g} s: {task}")
        yield bed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
