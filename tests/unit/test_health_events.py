"""Events against our real API: what is told of what, that repeats are counted, and that nothing ever blocks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.health.announce import Announcer
from kubeproxy.health.events import BURST, MOST_WAITING, Note, Recorder, Subject
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.model.addresses import Family
from kubeproxy.model.admission import Rejection
from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import ApiError, Listing
from kubeproxy.store.resources import NODES, SERVICES, Resource
from kubeproxy.sync.status import SyncStatus
from tests.apiserver_bed import SERVICES as SERVICES_PATH
from tests.apiserver_bed import Bed, api_bed, service

pytestmark = pytest.mark.unit

EVENTS = "/api/v1/namespaces/default/events"
STARTED = Note(subject=Subject(resource=NODES, name="n1"), type="Normal", reason="Starting", action="Start")


class Api:
    """The three verbs on the bed's API server; ``failure`` is raised instead."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.failure: Exception | None = None
        self.calls = 0

    async def _call(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        self.calls += 1
        if self.failure:
            raise self.failure
        code, found = await self._bed.call(method, path, body, **headers)
        if code >= 400:
            raise ApiError(code, found["reason"], found["message"])
        return found

    async def list(self, resource: Resource, *, namespace: str = "", field_selector: str = "") -> Listing:
        found = await self._call("GET", f"{resource.path(namespace)}?fieldSelector={field_selector}")
        return Listing(items=tuple(msgspec.json.encode(item) for item in found["items"]), revision="1")

    async def create(self, resource: Resource, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._call("POST", resource.path(namespace), body)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Any) -> dict[str, Any]:
        kind = "application/merge-patch+json"
        return await self._call("PATCH", resource.path(namespace, name), patch, Content_Type=kind)


class Harness:
    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.api = Api(bed)
        self.clock = ManualClock()
        self.counts = {"told": 0, "dropped": 0}
        self.recorder = Recorder(self.api, self.clock, "n1", self._count)

    def _count(self, outcome: str, times: int) -> None:
        self.counts[outcome] += times

    async def told(self, number: int) -> list[dict[str, Any]]:
        """Wait until a number of notes is settled one way or the other; return the Events that stand."""
        async with asyncio.timeout(30):
            while sum(self.counts.values()) < number:
                await asyncio.sleep(0.001)
        found = (await self.bed.call("GET", EVENTS))[1]["items"]
        return sorted(found, key=lambda event: str(event["message"]))


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with api_bed() as bed:
        harness = Harness(bed)
        task = asyncio.create_task(harness.recorder.run())
        yield harness
        task.cancel()


async def test_the_start_is_told_of_the_node_as_kube_proxy_does(harness: Harness) -> None:
    Announcer(harness.recorder.record, "n1").started()
    (event,) = await harness.told(1)
    about = event["involvedObject"]
    assert (about["kind"], about["name"], about["uid"]) == ("Node", "n1", "n1")
    assert (event["type"], event["reason"], event["action"]) == ("Normal", "Starting", "StartKubeProxy")
    assert (event["reportingComponent"], event["source"]["host"], event["count"]) == ("kube-proxy", "n1", 1)


async def test_what_is_left_out_is_told_of_its_service_once_for_as_long_as_it_lasts(harness: Harness) -> None:
    made = await harness.bed.made(SERVICES_PATH, service("web"))
    announcer = Announcer(harness.recorder.record, "n1")
    rejection = Rejection(
        kind="Service", namespace="default", name="web", field="spec.externalIPs", value="127.0.0.1", reason="bad"
    )
    refused = (("default/web:http/TCP", "line 3\nfailed"),)
    for _ in range(3):
        announcer.note(SyncStatus(family=Family.V4, rejected=(rejection,), quarantined=refused))
    announcer.unreadable(SERVICES, ("default", "web"), "spec.ports: no array")
    announcer.unreadable(SERVICES, ("default", "x; rm"), "metadata.name")
    events = await harness.told(3)
    assert {event["involvedObject"]["uid"] for event in events} == {made["metadata"]["uid"]}
    assert [event["reason"] for event in events] == ["Unreadable", "Quarantined", "Rejected"]
    assert "line 3\\nfailed" in events[1]["message"]


async def test_a_health_check_port_that_is_not_open_is_told_in_upstreams_words() -> None:
    notes = list[Note]()
    Announcer(notes.append, "n1").not_listening(("ns", "web"), 31000, "Address already in use")
    (note,) = notes
    assert (note.subject.resource, note.subject.namespace, note.subject.name) == (SERVICES, "ns", "web")
    assert (note.type, note.reason, note.action) == ("Warning", "FailedToStartServiceHealthcheck", "Listen")
    assert note.message == 'node n1 failed to start healthcheck "ns/web" on port 31000: Address already in use'


async def test_what_repeats_is_counted_on_one_event_also_after_it_expired(harness: Harness) -> None:
    for number in range(1, 4):
        harness.recorder.record(STARTED)
        (event,) = await harness.told(number)
    assert event["count"] == 3
    await harness.bed.call("DELETE", f"{EVENTS}/{event['metadata']['name']}")
    await harness.clock.step(1)
    harness.recorder.record(STARTED)
    (event,) = await harness.told(4)
    assert event["count"] == 1


async def test_too_many_of_one_subject_are_dropped_until_time_has_passed(harness: Harness) -> None:
    notes = [msgspec.structs.replace(STARTED, message=str(number)) for number in range(BURST + 5)]
    for note in notes:
        harness.recorder.record(note)
    await harness.told(len(notes))
    assert harness.counts == {"told": BURST, "dropped": 5}
    await harness.clock.step(300)
    harness.recorder.record(notes[-1])
    assert len(await harness.told(len(notes) + 1)) == BURST + 1


async def test_a_refusal_drops_and_says_so_once(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.api.failure = ApiError(403, "Forbidden", "events is forbidden")
    for number in range(3):
        harness.recorder.record(msgspec.structs.replace(STARTED, message=str(number)))
    assert await harness.told(3) == []
    assert harness.counts["dropped"] == 3
    assert len([one for one in caplog.records if "they are dropped" in one.getMessage()]) == 1


async def test_a_server_that_is_away_is_waited_for_with_a_bounded_number(harness: Harness) -> None:
    harness.api.failure = Unavailable("refused")
    for number in range(MOST_WAITING + 10):
        subject = Subject(resource=NODES, name=f"n{number}")
        harness.recorder.record(msgspec.structs.replace(STARTED, subject=subject))
    await harness.clock.step(60)
    assert harness.api.calls < 10
    assert harness.counts == {"told": 0, "dropped": 10}
    harness.api.failure = None
    harness.recorder.record(STARTED)
    await harness.clock.step(10)
    await harness.told(20)
    assert harness.counts["told"] > 0


def test_families_that_sync_in_turn_tell_what_they_leave_out_once(caplog: pytest.LogCaptureFixture) -> None:
    notes = list[Note]()
    announcer = Announcer(notes.append, "n1")
    bad = Rejection(kind="Service", namespace="a", name="web", field="f", value="v", reason="bad")
    rest = Rejection(kind="", namespace="", name="", field="and", value="7", reason="more objects")
    refused = (("a/web:http/TCP", "line 3 failed"),)
    for _ in range(3):
        announcer.note(SyncStatus(family=Family.V4, rejected=(bad, rest), quarantined=refused))
        announcer.note(SyncStatus(family=Family.V6))  # has not looked yet
    announcer.note(SyncStatus(family=Family.V6, rejected=(bad,)))
    assert [note.reason for note in notes] == ["Rejected", "Quarantined"]
    assert [each.getMessage() for each in caplog.records] == [
        "Service a/web: f v is bad; it is left out",
        "Service a/web: port a/web:http/TCP is left out until it changes, the kernel refuses it: line 3 failed",
    ]
    for family in Family:
        announcer.note(SyncStatus(family=family))
    announcer.note(SyncStatus(family=Family.V6, rejected=(bad,)))
    assert [note.reason for note in notes] == ["Rejected", "Quarantined", "Rejected"]


def test_what_is_served_otherwise_than_asked_is_told() -> None:
    notes = list[Note]()
    announcer = Announcer(notes.append, "n1")
    announcer.note(SyncStatus(family=Family.V4, notes=(("a/web:http/TCP", "no scheduler nq"),)))
    (note,) = notes
    assert (note.reason, note.subject.name) == ("ServedOtherwise", "web")
    assert "no scheduler nq" in note.message


async def test_syncs_that_fail_for_long_are_told_and_again_every_five_minutes() -> None:
    clock, health, notes = ManualClock(), ProxyHealth([Family.V4], sync_period=30), list[Note]()
    announcer = Announcer(notes.append, "n1")
    announcer.note(SyncStatus(family=Family.V4, last_error="no such module"))
    task = asyncio.create_task(announcer.watch(health, clock))
    health.queued(Family.V4, clock.wall())
    await clock.step(50)
    assert notes == []
    await clock.step(320)
    assert [note.message for note in notes] == ["changes do not reach the kernel: no such module"] * 2
    health.updated(Family.V4, clock.wall())
    await clock.step(600)
    assert len(notes) == 2
    task.cancel()
