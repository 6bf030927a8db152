"""What a sync is: touched Services → wanted states → the backend's plan → the kernel → a published status.

The event loop owns the World; a worker thread gets a part of it to read, and owns the backend. Nothing is
written before every informer has delivered once (a restart must not remove what it has not heard of yet).
A failure is state: it is counted, logged once, and makes the next sync a full one.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.dataplane.base import Applied, Backend, Repairer, SyncFailed
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.notices import HintSource
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import Wanted, stream
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.node import NodeState, node_state
from kubeproxy.model.objects import Record
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.sync.flows import FlowReconciler
from kubeproxy.sync.full_syncs import FullSyncs
from kubeproxy.sync.runner import Runner
from kubeproxy.sync.status import Listing, SyncStatus, WithoutLocal
from kubeproxy.sync.watching import Looked, Watcher

log = logging.getLogger(__name__)

RESCUES = 8
"""How often one sync is tried again at once because the backend put the culprits aside."""


class Intervals(Record, frozen=True, kw_only=True):
    """How often things happen, in seconds; the defaults are upstream's, but for the shortest and the check."""

    min_sync: float = 0.0
    """From the end of a sync to the start of the next; a long sync is followed by a rest all the same."""
    retry: float = 30.0
    max_sync: float = 3600.0
    check: float = 5.0
    """Between looks at whether somebody else changed our kernel state; infinite where hints tell of all."""
    glance: float = math.inf
    """Between glances, which find out whether it is worth a look (`Backend.glance`); infinite for none."""


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync that succeeded has brought into the kernel; for those who act on that and on nothing newer."""

    world: World
    """As it was when the sync began; of the Services in ``scope`` alone, unless that is None."""
    scope: Collection[Key] | None
    node: NodeState
    started: float
    """When (Clock.now) the World was looked at: what came later is not in."""


class Syncer:
    """Keeps one IP family's kernel state equal to what the World asks for.

    ``on_result`` gets each new status, ``on_synced`` then what a successful sync has brought in; both are called
    on the event loop and must not raise. ``flows`` ends afterwards, in the worker thread and before the next sync,
    the flows that are stale under the new rules. ``hints`` tell of what others change; ``full_syncs`` are those
    of all of an agent's families.
    """

    def __init__(
        self,
        world: World,
        backend: Backend,
        settings: Settings,
        family: Family,
        clock: Clock,
        on_result: Callable[[SyncStatus], None] = lambda status: None,
        intervals: Intervals | None = None,
        on_synced: Callable[[Synced], None] = lambda synced: None,
        flows: FlowReconciler | None = None,
        hints: Sequence[HintSource] = (),
        full_syncs: FullSyncs | None = None,
    ) -> None:
        self._world = world
        self._backend = backend
        self._settings = settings
        self._family = family
        self._clock = clock
        self._on_result = on_result
        self._on_synced = on_synced
        self._flows = flows
        self._left_out: Collection[ServicePortName] = frozenset()
        self._quarantined, self._notes = Listing(), Listing()
        self._without_local = WithoutLocal()
        self._intervals = intervals or Intervals()
        self._touched: set[Key] = set()
        self._oldest: float | None = None
        """When (Clock.now) the oldest change came that no sync has taken up; None when there is none."""
        self._node: NodeState | None = None
        """What the kernel was last written for."""
        self._wanted_node: NodeState | None = None
        """What it is to be written for; None: to be looked up in the World."""
        self._ready = False
        self._kernel = asyncio.Lock()  # one thread at a time in the backend
        self._last_full = clock.now()
        self._check_error = ""
        self._is_distrusted = False
        """Whether the kernel is known not to hold what was written."""
        self.status = SyncStatus(family=family)
        self._watcher = Watcher(
            hints,
            self._look,
            self._repair,
            clock=clock,
            every=self._intervals.check,
            glance=self._glance,
            glance_every=self._intervals.glance,
        )
        self._full_syncs = full_syncs or FullSyncs()
        self._full_syncs.silence(self._watcher)
        self._runner = Runner(
            self._sync,
            clock=clock,
            min_interval=self._intervals.min_sync,
            retry_interval=self._intervals.retry,
            max_interval=self._intervals.max_sync,
        )

    def without_local(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the ports that `SyncStatus.no_local` counts, by name."""
        return self._without_local.names()

    def touch(self, keys: Collection[Key]) -> None:
        """Note that these Services may have changed in the World."""
        if not keys:
            return
        self._touched.update(keys)
        self._request()

    def touch_node(self) -> None:
        """Note that the Node or the ServiceCIDRs may have changed in the World."""
        self._wanted_node = None
        self._request()

    def _request(self) -> None:
        if self._oldest is None:
            self._oldest = self._clock.now()
            if self.status.queued_since is None:
                self._publish(queued_since=self._oldest)
        if self._ready:
            self._runner.request()

    def synced(self) -> None:
        """Note that every informer has delivered: from now on the kernel may be written."""
        self._ready = True
        self._runner.request()

    async def run(self) -> None:
        """Sync until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._runner.run())
            tasks.create_task(self._watcher.run())
            tasks.create_task(self._look_for_stale_flows_again())

    async def _glance(self) -> str:
        """Ask short questions, unless somebody is in the backend, who would make them wait.

        In a thread all the same: while somebody else replaces a large table the kernel answers none for 0.3 s.
        """
        if not self.status.synced or self._kernel.locked():
            return ""
        async with self._kernel:
            return await asyncio.to_thread(self._backend.glance)

    async def _look(self) -> Looked:
        """Have the backend find out whether somebody else changed what was written."""
        if not self.status.synced:
            return Looked("", 0.0)
        drift, error = "", ""
        async with self._kernel:  # who waits for a long sync here has not looked for long
            started = self._clock.now()
            try:
                drift = await asyncio.to_thread(self._backend.observe)
            except (KernelError, OSError) as refused:
                error = str(refused)
            seconds = self._clock.now() - started
        if error and error != self._check_error:
            log.warning("cannot check whether the kernel still has our state: %s", error)
        self._check_error = error
        return Looked(drift, seconds)

    async def _repair(self, drift: str) -> None:
        """Have put right what is not as it was written: by the backend alone, or else by a full sync."""
        if not self.status.synced:
            return
        self._publish(drifts=self.status.drifts + 1, queued_since=self._waiting_since())
        if await self._is_put_right():
            log.warning("%s; put right", drift)
            self._publish(queued_since=self._oldest)
            await self._end_flows_that_met_no_rules()
            if self._backend.needs_full:
                self._runner.request()
        else:
            log.warning("%s; writing everything again", drift)
            self._is_distrusted = True
            self._runner.request()

    async def _is_put_right(self) -> bool:
        """Have the backend undo what was changed; return whether it could."""
        repairer = self._backend.repairer
        if repairer is None:
            return False
        full_syncs = self.status.full_syncs
        for whole in (False, True):
            async with self._kernel:
                if self.status.full_syncs != full_syncs:
                    return True  # one came before us
                with self._written_anew() if whole else nullcontext():
                    if await asyncio.to_thread(_undo, repairer, whole):
                        return True
        return False

    async def _look_for_stale_flows_again(self) -> None:
        while True:
            await self._clock.sleep(self._intervals.retry)
            if self.status.flows.error:
                self._runner.request()

    async def _sync(self) -> bool:
        """Bring what was touched into the kernel; return whether that succeeded."""
        if not self._ready:
            return True
        started = self._clock.now()
        full = self._is_overdue()
        for _ in range(RESCUES):
            try:
                async with self._kernel:
                    node = self._wanted_node or node_state(self._world, self._settings, self._family)
                    self._wanted_node = node
                    distrusted, self._is_distrusted = self._is_distrusted, False
                    full = full or distrusted or self._backend.needs_full or node != self._node
                    keys, self._touched, self._oldest = self._touched, set(), None
                    scope = None if full else keys
                    looked, part = self._clock.now(), self._world.part(scope)
                    applied = await self._bring_in(part, node, scope)
            except SyncFailed as failure:
                self._touched |= keys
                self._oldest = self._waiting_since()
                self._is_distrusted |= distrusted
                self._failed(failure, full=full, started=started)
                if full and not failure.culprits:
                    return False
                # Either the backend knows now what to leave out, or a full sync may do what this one could not.
                full = True
                continue
            self._node = node
            self._succeeded(applied, full=full, started=started)
            self._on_synced(Synced(world=part, scope=scope, node=node, started=looked))
            await self._end_stale_flows(part, node, scope)
            return True
        return False

    async def _bring_in(self, part: World, node: NodeState, scope: Collection[Key] | None) -> Applied | None:
        if scope is not None:
            return await asyncio.to_thread(self._work, part, node, scope)
        with self._written_anew():
            return await asyncio.to_thread(self._work, part, node, scope)

    @contextmanager
    def _written_anew(self) -> Iterator[None]:
        """Bring everything in meanwhile."""
        with self._full_syncs.under_way():
            self._watcher.settle()
            yield

    async def _end_stale_flows(self, part: World, node: NodeState, scope: Collection[Key] | None) -> None:
        if self._flows is None or not self._flows.has_work(part, scope):
            return  # as mostly: a thread is not asked for nothing
        status = await asyncio.to_thread(self._flows.reconcile, part, node, scope, self._left_out)
        if status != self.status.flows:
            self._publish(flows=status)

    async def _end_flows_that_met_no_rules(self) -> None:
        if self._flows is None:
            return
        async with self._kernel:
            status = await asyncio.to_thread(self._flows.look_at_all)
        if status != self.status.flows:
            self._publish(flows=status)

    def _is_overdue(self) -> bool:
        return self._clock.now() - self._last_full >= self._intervals.max_sync

    def _work(self, part: World, node: NodeState, scope: Collection[Key] | None) -> Applied | None:
        """Run in the worker thread, on values that nobody changes."""
        try:
            plan = self._backend.diff(Wanted(node, stream(part, self._settings, node, scope)), scope)
            return None if plan is None else self._backend.apply(plan)
        except SyncFailed:
            raise
        except Exception as bug:
            # A mistake of ours is a failed sync, not the end of the agent and of what it serves beside.
            log.exception("a sync ran into an error of kubeproxy's own")
            raise SyncFailed(f"kubeproxy's own error: {bug!r}") from bug

    def _waiting_since(self) -> float:
        """Return since when something that should be in the kernel is not: now, unless it waits already."""
        since = self.status.queued_since
        return self._clock.now() if since is None else since

    def _succeeded(self, applied: Applied | None, *, full: bool, started: float) -> None:
        status = self.status
        if status.last_error:
            log.info("in sync again")
        if full:
            self._last_full = self._clock.now()
        if applied:
            self._without_local.take(applied)
            self._left_out = applied.quarantined.keys()
        self._publish(
            synced=True,
            queued_since=self._oldest,
            last_success=self._clock.wall(),
            duration=self._clock.now() - started,
            last_was_full=full,
            syncs=status.syncs + 1,
            full_syncs=status.full_syncs + full,
            last_error="",
            rejected=self._world.rejections(),
            changed=applied.changed if applied else 0,
            ports=applied.ports if applied else status.ports,
            endpoints=applied.endpoints if applied else status.endpoints,
            quarantined=self._quarantined.of(applied.quarantined) if applied else status.quarantined,
            notes=self._notes.of(applied.notes) if applied else status.notes,
            no_local=self._without_local.count,
            rules=applied.rules if applied else status.rules,
        )

    def _failed(self, failure: SyncFailed, *, full: bool, started: float) -> None:
        status = self.status
        if str(failure) != status.last_error:
            log.error("sync failed: %s", failure)
        self._publish(
            queued_since=self._oldest,
            duration=self._clock.now() - started,
            failures=status.failures + 1,
            partial_failures=status.partial_failures + (not full),
            last_error=str(failure),
        )

    def _publish(self, **fields: object) -> None:
        self.status = msgspec.structs.replace(self.status, **fields)
        self._on_result(self.status)


def _undo(repairer: Repairer, whole: bool) -> bool:
    """Run in the worker thread."""
    try:
        return repairer.repair(whole=whole)
    except Exception:
        log.exception("a repair ran into an error of kubeproxy's own; a full sync follows")
        return False
