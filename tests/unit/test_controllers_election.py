"""Leader election: at most one acts, the next takes over, and no clock but one's own is believed."""

import asyncio
import contextlib
import copy

import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.controllers.election import Election, LeaseLost
from kubeproxy.controllers.leases import Observed, Record, Timings, claim, is_taken, observe, record_of
from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import ApiError

pytestmark = pytest.mark.unit


class Server:
    """One Lease behind an API server that can be away, or silent."""

    def __init__(self):
        self.lease = None
        self.version = 0
        self.writes = 0

    def link(self):
        return Link(self)


class Link:
    """One candidate's way to the server."""

    def __init__(self, server):
        self.server = server
        self.state = "up"

    async def _pass(self):
        await asyncio.sleep(0)
        if self.state == "silent":
            await asyncio.Event().wait()
        if self.state == "away":
            raise Unavailable("connection refused")

    async def get(self, _resource, _namespace, _name):
        await self._pass()
        if self.server.lease is None:
            raise ApiError(404, "NotFound", "not found")
        return copy.deepcopy(self.server.lease)

    async def create(self, _resource, _namespace, body):
        await self._pass()
        if self.server.lease is not None:
            raise ApiError(409, "AlreadyExists", "exists")
        return self._store(body)

    async def replace(self, _resource, _namespace, _name, body):
        await self._pass()
        if self.server.lease is None:
            raise ApiError(404, "NotFound", "not found")
        if body["metadata"]["resourceVersion"] != self.server.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "modified")
        return self._store(body)

    def _store(self, body):
        self.server.writes += 1
        self.server.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.server.version)}
        self.server.lease = copy.deepcopy({**body, "metadata": metadata})
        return copy.deepcopy(self.server.lease)


class WallClock(ManualClock):
    """A ManualClock whose wall time is somewhere else."""

    def __init__(self, shared, offset):
        super().__init__()
        self.shared, self.offset = shared, offset

    def now(self):
        return self.shared.now()

    async def sleep(self, seconds):
        await self.shared.sleep(seconds)

    def wall(self):
        return self.shared.wall() + self.offset


class Candidate:
    """An election and what it does while elected."""

    def __init__(self, server, clock, name):
        self.name, self.link = name, server.link()
        self.election = Election(self.link, "loops", name, clock=clock, jitter=lambda: 0.5)
        self.working = False
        self.terms = 0
        self.task = asyncio.create_task(self.election.run(self._work))

    async def _work(self):
        self.working, self.terms = True, self.terms + 1
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False

    def kill(self):
        """End as SIGKILL would: nothing is released."""
        self.link.state = "away"
        self.task.cancel()

    async def end(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@contextlib.asynccontextmanager
async def candidates(count, offsets=()):
    """Yield server, clock and candidates, of which the first has asked first."""
    server, clock = Server(), ManualClock()
    offsets = [*offsets, *[0] * count]
    running = []
    for number in range(count):
        running.append(Candidate(server, WallClock(clock, offsets[number]), f"c{number}"))
        await settle()
    try:
        yield server, clock, running
    finally:
        for each in running:
            each.link.state = "away"
            each.task.cancel()
        await clock.step(60)
        await asyncio.gather(*(each.task for each in running), return_exceptions=True)


def leaders(running):
    return [each.name for each in running if each.working]


async def stepped(clock, seconds, running, at_most=1):
    """Step in quarters of a second; there is never a second leader."""
    for _ in range(int(seconds * 4)):
        await clock.step(0.25)
        assert len(leaders(running)) <= at_most


async def test_the_first_leads_and_renews_and_nobody_else():
    async with candidates(3) as (server, clock, running):
        await stepped(clock, 60, running)
        assert leaders(running) == ["c0"]
        spec = server.lease["spec"]
        assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("c0", 0, 15)
        assert running[0].terms == 1
        assert spec["acquireTime"] < spec["renewTime"]


@pytest.mark.parametrize("offsets", [(0, 0), (3600, 0), (0, 3600), (-86400, 3600)])
async def test_a_killed_holder_is_followed_whatever_the_clocks_say(offsets):
    async with candidates(2, offsets) as (server, clock, running):
        await stepped(clock, 5, running)
        running[0].kill()
        await stepped(clock, 12, running)
        assert leaders(running) == []  # it was renewed at the latest before it was killed: others wait 15 s
        await stepped(clock, 8, running)
        assert leaders(running) == ["c1"]
        assert server.lease["spec"]["leaseTransitions"] == 1


async def test_a_holder_that_ends_cleanly_is_followed_at_its_successors_next_turn():
    async with candidates(2) as (server, clock, running):
        await stepped(clock, 5, running)
        await running[0].end()
        assert server.lease["spec"]["holderIdentity"] == ""
        await stepped(clock, 4.5, running)
        assert leaders(running) == ["c1"]


async def test_the_holders_successor_of_the_same_name_does_not_wait():
    async with candidates(1) as (server, clock, running):
        running[0].kill()
        await clock.step(1)
        again = Candidate(server, clock, "c0")
        running.append(again)
        await settle()
        assert again.working
        assert server.lease["spec"]["leaseTransitions"] == 0


@pytest.mark.parametrize("trouble", ["away", "silent"])
async def test_a_holder_that_cannot_renew_stops_before_another_starts(trouble):
    async with candidates(2) as (_, clock, running):
        await stepped(clock, 5, running)
        running[0].link.state = trouble
        await stepped(clock, 10, running)
        assert leaders(running) == []
        await stepped(clock, 10, running)
        assert leaders(running) == ["c1"]
        running[0].link.state = "up"
        await stepped(clock, 60, running)
        assert leaders(running) == ["c1"]
        assert running[0].election.failures > 0


async def test_a_paused_holder_may_not_write_before_it_has_asked():
    """The moment it wakes, before any of its timers has run."""
    async with candidates(1) as (server, clock, running):
        holder = running[0]
        holder.election.ensure_held()
        clock._now += 30  # SIGSTOP: time goes on and nothing runs
        other = Candidate(server, clock, "c1")
        running.append(other)
        with pytest.raises(LeaseLost):
            holder.election.ensure_held()
        await stepped(clock, 20, running, at_most=2)
        assert leaders(running) in (["c0"], ["c1"])
        assert sum(each.election.held for each in running) == 1


async def test_an_outage_of_the_server_ends_with_one_leader():
    async with candidates(3) as (_, clock, running):
        for each in running:
            each.link.state = "away"
        await stepped(clock, 120, running)
        assert leaders(running) == []
        for each in running:
            each.link.state = "up"
        await stepped(clock, 20, running)
        assert len(leaders(running)) == 1


async def test_a_holder_whose_lease_was_rewritten_or_deleted_goes_on_or_gives_way():
    async with candidates(1) as (server, clock, running):
        server.lease["metadata"]["resourceVersion"] = "edited"
        server.lease["metadata"]["labels"] = {"a": "b"}
        await stepped(clock, 5, running)
        assert leaders(running) == ["c0"]
        assert server.lease["metadata"]["labels"] == {"a": "b"}
        server.lease = None
        await stepped(clock, 5, running)
        assert (leaders(running), running[0].terms) == (["c0"], 1)
        server.lease["metadata"]["resourceVersion"] = "taken"
        server.lease["spec"]["holderIdentity"] = "thief"
        await stepped(clock, 5, running)
        assert leaders(running) == []
        await stepped(clock, 20, running)
        assert leaders(running) == ["c0"]
        assert server.lease["spec"]["leaseTransitions"] == 1


def test_decisions():
    timings = Timings()
    theirs = Record(holder_identity="b", lease_duration_seconds=15, renew_time="2030-01-01T00:00:00Z")
    seen = observe(None, theirs, 100.0)
    assert observe(seen, theirs, 110.0) is seen
    assert is_taken(seen, "a", 114.9, timings)
    assert not is_taken(seen, "a", 115.0, timings)
    assert not is_taken(seen, "b", 101.0, timings)
    assert not is_taken(Observed(Record(holder_identity=""), 100.0), "a", 100.0, timings)
    taken = claim(seen, "a", "now", timings)
    assert (taken.holder_identity, taken.lease_transitions, taken.acquire_time) == ("a", 1, "now")
    renewed = claim(Observed(taken, 0.0), "a", "later", timings)
    assert (renewed.lease_transitions, renewed.acquire_time, renewed.renew_time) == (1, "now", "later")
    assert record_of({"spec": {"holderIdentity": 7}}) == Record()
