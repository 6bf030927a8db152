import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Self

import msgspec
import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.dataplane.base import Applied, Change, Plan, SyncFailed, Wanted
from kubeproxy.dataplane.ledger import Ledger
from kubeproxy.kernel.fake_conntrack import FakeConntrack
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.objects import EndpointSlice, Protocol, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.sync.flows import FlowReconciler
from kubeproxy.sync.full_syncs import FullSyncs
from kubeproxy.sync.status import SyncStatus
from kubeproxy.sync.syncer import Intervals, Synced, Syncer
from kubeproxy.testing.build import endpoint_slice, service

pytestmark = pytest.mark.unit

WEB = ("default", "web")


class Recorder:
    """A backend that remembers its plans; ``failures`` are raised by the next applications."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.scopes: list[frozenset[Key] | None] = []
        self.failures: list[Exception] = []
        self.drift = ""
        self.unobservable: Exception | None = None
        self.quarantined: dict[ServicePortName, str] = {}
        self.needs_full = True
        self.repairs: list[bool] = []
        self.glances, self.glanced = 0, ""
        self.may_glance = threading.Event()
        self.may_glance.set()
        self.can_repair: list[bool | Exception] = []
        """Answers of the next repairs; then none is possible."""
        self.needs_full_after_repair = False
        self.repairs_at_all = True
        self.may_repair = threading.Event()
        self.may_repair.set()
        self.looks = self.begun = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def diff(self, wanted: Wanted, scope: Collection[Key] | None) -> Plan | None:
        self.begun += 1
        assert self.may_go_on.wait(10)
        self.scopes.append(None if scope is None else frozenset(scope))
        return self.ledger.plan(wanted, scope, is_known=True)

    def apply(self, plan: Plan) -> Applied:
        changes: list[Change] = list(plan.changes)
        if self.failures:
            self.needs_full = True
            raise self.failures.pop(0)
        if plan.full:
            self.ledger.clear()
        for change in changes:
            self.ledger.enter(change)
        self.needs_full = False
        ports, endpoints = len(self.ledger.states), self.ledger.endpoints
        return Applied(
            full=plan.full, changed=len(changes), ports=ports, endpoints=endpoints, quarantined=self.quarantined
        )

    def observe(self) -> str:
        self.looks += 1
        if self.unobservable is not None:
            raise self.unobservable
        drift, self.drift = self.drift, ""
        self.needs_full = self.needs_full or bool(drift)
        return drift

    def glance(self) -> str:
        self.glances += 1
        assert self.may_glance.wait(10)
        return self.glanced

    @property
    def repairer(self) -> Self | None:
        return self if self.repairs_at_all else None

    def repair(self, *, whole: bool) -> bool:
        self.repairs.append(whole)
        assert self.may_repair.wait(10)
        answer = self.can_repair.pop(0) if self.can_repair else False
        if isinstance(answer, Exception):
            raise answer
        self.needs_full &= not answer or self.needs_full_after_repair
        return answer

    def cleanup(self) -> None:
        raise AssertionError("nobody asked for it")


class Rig:
    def __init__(self, intervals: Intervals, full_syncs: FullSyncs) -> None:
        self.clock = ManualClock()
        self.world = World()
        self.backend = Recorder()
        self.published: list[SyncStatus] = []
        self.synced: list[Synced] = []
        self.conntrack = FakeConntrack()
        settings = Settings(node_name="node1")
        self.syncer = Syncer(
            self.world,
            self.backend,
            settings,
            Family.V4,
            self.clock,
            self.published.append,
            intervals,
            self.synced.append,
            FlowReconciler(self.conntrack, lambda: (), settings, Family.V4, self.clock),
            full_syncs=full_syncs,
        )

    def put(self, *objects: Service | EndpointSlice) -> None:
        for each in objects:
            identity = (each.namespace, each.name)
            if isinstance(each, Service):
                self.syncer.touch(self.world.apply_services({identity: each}))
            else:
                self.syncer.touch(self.world.apply_slices({identity: each}))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the worker thread, which runs on real time, go on."""
        for _ in range(2000):
            await settle(2)
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"never came: {self.syncer.status}")

    async def until_synced(self, count: int) -> None:
        """Let so many syncs end, and what follows them."""
        await self.until(lambda: self.ended >= count and self.is_idle)
        await settle()

    @property
    def ended(self) -> int:
        return self.syncer.status.syncs + self.syncer.status.failures

    @property
    def is_idle(self) -> bool:
        """Whether the runner waits, as the check for drift and the one for stale flows do."""
        return self.clock.sleeping == 3


@asynccontextmanager
async def rig(intervals: Intervals | None = None, full_syncs: FullSyncs | None = None) -> AsyncIterator[Rig]:
    built = Rig(intervals or Intervals(), full_syncs or FullSyncs())
    task = asyncio.create_task(built.syncer.run())
    await built.clock.step(0)
    yield built
    assert not task.done()
    task.cancel()


async def test_nothing_is_written_before_every_informer_delivered() -> None:
    async with rig() as it:
        it.put(service("web", "10.96.0.1"))
        await it.clock.step(100)
        assert it.backend.scopes == []
        assert it.syncer.status.queued_since is not None
        it.syncer.synced()
        await it.until_synced(1)
        assert it.backend.scopes == [None]
        assert it.syncer.status.synced
        assert it.syncer.status.queued_since is None


async def test_a_change_is_a_sync_of_what_was_touched() -> None:
    async with rig() as it:
        it.put(service("web", "10.96.0.1"), service("api", "10.96.0.2"))
        it.syncer.synced()
        await it.until_synced(1)
        it.put(endpoint_slice("web", "80", ["10.244.0.2"]))
        await it.clock.step(1)
        await it.until_synced(2)
        assert it.backend.scopes == [None, frozenset({WEB})]
        status = it.syncer.status
        assert (status.ports, status.endpoints, status.changed, status.last_was_full) == (2, 1, 1, False)


async def test_who_acts_on_a_sync_is_told_what_is_in_and_nothing_newer() -> None:
    async with rig() as it:
        it.backend.failures = [SyncFailed("table is busy")]
        it.put(service("web", "10.96.0.1"))
        it.syncer.synced()
        await it.until_synced(1)
        assert it.synced == []
        await it.clock.step(30)
        await it.until_synced(2)
        await it.clock.step(1)
        it.put(service("api", "10.96.0.2"))
        await it.until_synced(3)
        first, second = it.synced
        assert (first.scope, set(first.world.services)) == (None, {WEB})
        assert (second.scope, set(second.world.services)) == ({("default", "api")}, {("default", "api")})
        assert (first.node.name, second.started - first.started) == ("node1", 1)


async def test_a_failed_change_is_followed_by_a_full_sync_at_once() -> None:
    async with rig() as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.failures = [SyncFailed("table is busy")]
        it.put(service("web", "10.96.0.1"))
        await it.clock.step(1)
        await it.until_synced(3)
        assert it.backend.scopes == [None, frozenset({WEB}), None]
        status = it.syncer.status
        assert (status.failures, status.partial_failures, status.last_error) == (1, 1, "")


async def test_a_failed_full_sync_is_retried_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        it.backend.failures = [SyncFailed("no such module"), SyncFailed("no such module")]
        it.put(service("web", "10.96.0.1"))
        it.syncer.synced()
        await it.until_synced(1)
        assert it.syncer.status.last_error == "no such module"
        assert it.syncer.status.queued_since is not None
        await it.clock.step(30)
        await it.until_synced(2)
        await it.clock.step(30)
        await it.until_synced(3)
        assert it.backend.scopes == [None, None, None]
        assert (it.syncer.status.synced, it.syncer.status.last_error) == (True, "")
        assert "no such module" in caplog.text


async def test_culprits_set_aside_let_the_rest_through_at_once() -> None:
    async with rig() as it:
        it.put(service("web", "10.96.0.1"))
        (name,) = (state for state in [("default", "web")])
        it.backend.failures = [SyncFailed("bad rule", [name])]  # type: ignore[list-item]
        it.syncer.synced()
        await it.until_synced(2)
        assert it.backend.scopes == [None, None]
        assert it.syncer.status.synced


async def test_drift_is_repaired_by_a_full_sync(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.drift = "somebody flushed it"
        await it.clock.step(5)
        for _ in range(200):
            await it.clock.step(0.5)
            await asyncio.sleep(0.001)
            if it.syncer.status.syncs == 2:
                break
        assert it.backend.scopes == [None, None]
        assert it.syncer.status.drifts == 1
        assert any(each.queued_since is not None for each in it.published)
        assert "somebody flushed it" in caplog.text


@pytest.mark.parametrize("answers", [[True], [False, True]], ids=["told", "whole"])
async def test_drift_that_the_backend_puts_right_needs_no_full_sync(
    answers: list[bool | Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(Intervals(check=1)) as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.can_repair = answers
        it.backend.drift = "somebody flushed it"
        await it.clock.step(1)
        await it.until(lambda: it.syncer.status.drifts == 1 and it.syncer.status.queued_since is None)
        assert it.backend.scopes == [None]
        assert it.backend.repairs in ([False], [False, True])
        assert (it.syncer.status.full_syncs, it.backend.needs_full) == (1, False)
        assert "somebody flushed it; put right" in caplog.text


async def test_a_backend_that_repairs_nothing_has_one_silence_for_a_drift_and_not_two() -> None:
    full_syncs, other = FullSyncs(), Listener()
    async with rig(Intervals(check=1), full_syncs) as it:
        it.syncer.synced()
        await it.until_synced(1)
        full_syncs.silence(other)
        it.backend.repairs_at_all = False
        it.backend.drift = "somebody flushed it"
        await it.clock.step(1)
        await it.until_synced(2)
        assert (it.backend.scopes, it.backend.repairs) == ([None, None], [])
        assert other.heard == ["suspended", "resumed"]


@pytest.mark.parametrize("what", ["Service", "Node"])
async def test_what_comes_during_a_repair_or_a_sync_waits_from_then_on(what: str) -> None:
    async with rig(Intervals(check=1)) as it:
        it.syncer.synced()
        await it.until_synced(1)

        def come() -> float:
            if what == "Service":
                it.put(service(f"web{len(it.published)}", "10.96.0.1"))
            else:
                it.syncer.touch_node()
            return it.clock.now()

        it.backend.may_repair.clear()
        it.backend.can_repair = [True]
        it.backend.drift = "somebody flushed it"
        await it.clock.step(1)
        await it.until(lambda: it.backend.repairs == [False])
        await it.clock.step(2)
        came = come()
        await it.clock.step(3)
        assert it.syncer.status.queued_since == came - 2  # the drift is older
        it.backend.may_go_on.clear()
        it.backend.may_repair.set()
        await it.until(lambda: it.syncer.status.queued_since == came)
        await it.until(lambda: it.backend.begun == 2)
        await it.clock.step(4)
        came = come()
        await it.clock.step(5)
        it.published.clear()
        it.backend.may_go_on.set()
        await it.until(lambda: it.syncer.status.queued_since is None)
        assert came in [each.queued_since for each in it.published]


async def test_a_repair_that_fails_by_a_mistake_of_ours_is_followed_by_a_full_sync(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rig(Intervals(check=1)) as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.can_repair = [ValueError("no"), ValueError("no")]
        it.backend.drift = "somebody flushed it"
        await it.clock.step(1)
        await it.until_synced(2)
        assert it.backend.scopes == [None, None]
        assert "kubeproxy's own" in caplog.text


async def test_flows_that_met_no_rules_are_looked_for_after_a_repair() -> None:
    async with rig(Intervals(check=1)) as it:
        it.put(service("dns", "10.96.0.10", "53/UDP"), endpoint_slice("dns", "53/UDP", ["10.244.0.2"]))
        it.syncer.synced()
        await it.until_synced(1)
        it.conntrack.track(STALE)
        it.backend.can_repair = [True]
        it.backend.drift = "somebody flushed it"
        await it.clock.step(1)
        await it.until(lambda: it.syncer.status.flows.deleted == 1)


async def test_a_repair_that_may_not_be_all_is_followed_by_a_full_sync() -> None:
    async with rig(Intervals(check=1)) as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.can_repair, it.backend.needs_full_after_repair = [True], True
        it.backend.drift = "somebody deleted a rule"
        await it.clock.step(1)
        await it.until_synced(2)
        assert (it.backend.repairs, it.syncer.status.full_syncs, it.syncer.status.drifts) == ([False], 2, 1)


async def test_who_undoes_what_a_look_had_repaired_waits_for_the_next_repair() -> None:
    async with rig(Intervals(check=0.75)) as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.drift = "somebody flushed it"
        await it.clock.step(0.75)
        await it.until_synced(2)
        it.backend.drift = "somebody flushed it"
        await it.clock.step(0.75)
        await it.until(lambda: it.backend.drift == "" and it.is_idle)
        await it.clock.step(0.2)
        assert it.syncer.status.full_syncs == 2
        await it.clock.step(0.1)
        await it.until_synced(3)
        assert (it.syncer.status.full_syncs, it.syncer.status.drifts) == (3, 2)


async def test_a_look_that_waited_for_a_long_sync_is_followed_by_others_as_soon_as_ever() -> None:
    async with rig() as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.may_go_on.clear()
        it.put(service("web", "10.96.0.1"))
        await it.clock.step(15)
        it.backend.may_go_on.set()
        await it.until_synced(2)
        await it.until(lambda: it.backend.looks == 1 and it.is_idle)
        await it.clock.step(5.2)
        await it.until(lambda: it.backend.looks == 2)


async def test_a_glance_that_the_kernel_lets_wait_lets_nobody_else_wait() -> None:
    async with rig(Intervals(check=60, glance=0.4)) as it:
        it.syncer.synced()
        await it.until(lambda: it.ended == 1)
        it.backend.may_glance.clear()
        await it.clock.step(0.4)
        await it.until(lambda: it.backend.glances == 1)
        before = it.clock.now()
        it.put(service("web", "10.96.0.1"))
        await it.clock.step(10)  # the event loop goes on
        assert (it.syncer.status.queued_since, it.ended, it.backend.glances) == (before, 1, 1)
        it.backend.glanced = "a table was changed"
        it.backend.may_glance.set()
        await it.until(lambda: it.ended == 2)
        await it.until(lambda: it.backend.looks == 1)


class Listener:
    """What listens for another family."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def suspend(self) -> None:
        self.heard.append("suspended")

    def resume(self) -> None:
        self.heard.append("resumed")


async def test_a_full_sync_silences_the_other_family_and_a_change_does_not() -> None:
    full_syncs, other = FullSyncs(), Listener()
    full_syncs.silence(other)
    async with rig(full_syncs=full_syncs) as it:
        it.backend.may_go_on.clear()
        it.syncer.synced()
        await it.until(lambda: other.heard == ["suspended"])
        it.backend.may_go_on.set()
        await it.until_synced(1)
        assert other.heard == ["suspended", "resumed"]
        it.put(service("web", "10.96.0.1"))
        await it.until_synced(2)
        assert len(other.heard) == 2
        it.backend.needs_full = True
        it.backend.failures = [SyncFailed("the kernel refuses")]
        it.put(service("db", "10.96.0.2"))
        await it.until(lambda: it.syncer.status.failures == 1)
        assert other.heard[2:] == ["suspended", "resumed"]


async def test_a_mistake_of_ours_is_a_failed_sync_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.failures = [KeyError("oops")]
        it.put(service("web", "10.96.0.1"))
        await it.clock.step(1)
        await it.until_synced(3)
        assert it.backend.scopes == [None, frozenset({WEB}), None]
        assert it.syncer.status.ports == 1
        assert "KeyError" in caplog.text


async def test_a_check_that_fails_is_said_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.unobservable = OSError("no more processes")
        for _ in range(30):
            await it.clock.step(1)
            await asyncio.sleep(0.002)
        assert caplog.text.count("no more processes") == 1
        assert (it.backend.scopes, it.syncer.status.drifts) == ([None], 0)


async def test_a_failure_that_repeats_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        it.backend.failures = [SyncFailed("no such module"), SyncFailed("no such module")]
        it.syncer.synced()
        await it.until_synced(1)
        assert it.syncer.status.queued_since is not None  # though no Service waits, the tables do
        await it.clock.step(30)
        await it.until_synced(2)
        assert caplog.text.count("no such module") == 1


async def test_an_hour_after_the_last_full_sync_comes_another() -> None:
    async with rig() as it:
        it.syncer.synced()
        await it.until_synced(1)
        await it.clock.step(3601)
        await it.until_synced(2)
        assert it.backend.scopes == [None, None]


async def test_rejections_are_published() -> None:
    async with rig() as it:
        it.put(service("web", "10.96.0.1"), endpoint_slice("web", "80", ["127.0.0.1"]))
        it.syncer.synced()
        await it.until_synced(1)
        it.put(service("api", "10.96.0.2"))
        await it.clock.step(1)
        await it.until_synced(2)
        assert [each.value for each in it.syncer.status.rejected] == ["127.0.0.1"]


STALE = Flow(
    protocol=Protocol.UDP,
    source="10.244.0.9",
    source_port=4000,
    destination="10.96.0.10",
    port=53,
    answerer="10.244.0.50",
    answerer_port=53,
)
DNS = service("dns", "10.96.0.10", "53/UDP"), endpoint_slice("dns", "53/UDP", ["10.244.0.11"])


async def test_stale_flows_are_ended_after_a_sync() -> None:
    async with rig() as it:
        it.conntrack.track(STALE)
        it.put(*DNS)
        it.syncer.synced()
        await it.until(lambda: it.syncer.status.flows.runs == 1)
        assert it.conntrack.tracked == set()
        assert it.syncer.status.flows.deleted == 1
        assert it.published[-1].syncs == 1


async def test_flows_outlive_a_sync_that_failed() -> None:
    async with rig() as it:
        it.backend.failures = [SyncFailed("table is busy"), SyncFailed("table is busy")]
        it.conntrack.track(STALE)
        it.put(*DNS)
        it.syncer.synced()
        await it.until_synced(1)
        assert it.conntrack.questions == []
        await it.clock.step(30)
        await it.until_synced(2)
        await it.clock.step(30)
        await it.until(lambda: not it.conntrack.entries)


async def test_flows_that_could_not_be_looked_at_fail_no_sync_and_are_looked_at_again() -> None:
    async with rig() as it:
        it.conntrack.failures = [NetlinkError(1, "conntrack")]
        it.conntrack.track(STALE)
        it.put(*DNS)
        it.syncer.synced()
        await it.until(lambda: it.syncer.status.flows.failures == 1)
        status = it.syncer.status
        assert (status.syncs, status.failures, status.last_error, status.queued_since) == (1, 0, "", None)
        await it.clock.step(30)
        await it.until(lambda: not it.conntrack.entries)
        assert it.backend.scopes == [None, frozenset()]
        await it.clock.step(60)
        assert it.syncer.status.syncs == 2


async def test_a_port_in_quarantine_keeps_its_flows() -> None:
    async with rig() as it:
        it.backend.quarantined = {ServicePortName("default", "dns", "", Protocol.UDP): "refused"}
        it.conntrack.track(STALE)
        it.put(*DNS)
        it.syncer.synced()
        await it.until_synced(1)
        it.backend.quarantined = {}
        assert it.conntrack.entries
        it.put(msgspec.structs.replace(DNS[0], session_affinity=True))
        await it.clock.step(1)
        await it.until(lambda: not it.conntrack.entries)
