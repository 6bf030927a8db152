"""Events of the Kubernetes API: what a user must know of, told where `kubectl describe` shows it.

Recording never blocks and never fails: what repeats is counted on one Event, what comes too often of one subject
is dropped, what the server refuses (the role may lack the permission) is dropped and counted, and while the server
is away a bounded number waits. Source: client-go's tools/events and tools/record (names, numbers and limits).
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.health import COMPONENT
from kubeproxy.logs import one_line
from kubeproxy.model.objects import Record
from kubeproxy.model.timestamps import timestamp
from kubeproxy.store.base import StoreError
from kubeproxy.store.kube import ApiError, Listing
from kubeproxy.store.resources import EVENTS, NODES, Resource

log = logging.getLogger(__name__)

BURST = 25
REFILL_SECONDS = 300.0
"""One subject may have as many Events at once, and then one in so many seconds (client-go's spam filter)."""
MOST_WAITING = 1000
MOST_REMEMBERED = 4096
RETRY_SECONDS = 10.0
MESSAGE_LIMIT = 1024


class EventApi(Protocol):
    """What of the API client is needed."""

    async def list(self, resource: Resource, *, namespace: str = "", field_selector: str = "") -> Listing:
        """Read a collection."""
        ...

    async def create(self, resource: Resource, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object."""
        ...

    async def patch(self, resource: Resource, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge-patch an object."""
        ...


class Subject(Record, frozen=True, kw_only=True):
    """The object that an Event is about."""

    resource: Resource
    namespace: str = ""
    name: str


class Note(Record, frozen=True, kw_only=True):
    """One thing to tell; two that are equal are one that happened twice."""

    subject: Subject
    type: str
    """Normal or Warning."""
    reason: str
    """In CamelCase, for programs."""
    action: str
    message: str = ""


class _Told(msgspec.Struct):
    """An Event that stands in the API."""

    name: str
    count: int


class _Identity(msgspec.Struct):
    metadata: dict[str, Any]


class Recorder:
    """Tells notes to the API. Lives on one event loop; `run` until cancelled.

    ``count`` is told what became of how many: "told" or "dropped".
    """

    def __init__(self, api: EventApi, clock: Clock, host: str, count: Callable[[str, int], None]) -> None:
        self._count = count
        self._api = api
        self._clock = clock
        self._host = host
        self._waiting: dict[Note, int] = {}
        self._known: dict[Note, _Told] = {}
        self._allowances: dict[Subject, tuple[float, float]] = {}
        """By subject: how many Events it may still have, and as of when."""
        self._wake = asyncio.Event()
        self._complained = False
        self._serial = itertools.count()

    def record(self, note: Note) -> None:
        """Take a note on; returns at once."""
        full = note not in self._waiting and len(self._waiting) >= MOST_WAITING
        if full or not self._allowed(note.subject):
            self._count("dropped", 1)
            return
        self._waiting[note] = self._waiting.get(note, 0) + 1
        self._wake.set()

    async def run(self) -> None:
        """Tell what is recorded until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                note = next(iter(self._waiting))
                times = self._waiting.pop(note)
                try:
                    await self._tell(note, times)
                    self._count("told", times)
                except ApiError as refusal:
                    self._refused(refusal, times)
                except StoreError:
                    self._waiting[note] = self._waiting.get(note, 0) + times
                    await self._clock.sleep(RETRY_SECONDS)

    def _allowed(self, subject: Subject) -> bool:
        now = self._clock.now()
        left, since = self._allowances.pop(subject, (float(BURST), now))
        left = min(left + (now - since) / REFILL_SECONDS, BURST)
        allowed = left >= 1
        _remember(self._allowances, subject, (left - allowed, now))
        return allowed

    def _refused(self, refusal: ApiError, times: int) -> None:
        self._count("dropped", times)
        if not self._complained:
            log.warning("the API server refuses our Events, they are dropped: %s", refusal)
        self._complained = True

    async def _tell(self, note: Note, times: int) -> None:
        namespace = note.subject.namespace or "default"
        told = self._known.pop(note, None)
        now = timestamp(self._clock.wall())
        if told is not None:
            told.count += times
            change = {"count": told.count, "lastTimestamp": now}
            try:
                await self._api.patch(EVENTS, namespace, told.name, change)
                _remember(self._known, note, told)
                return
            except ApiError as error:
                if error.code != 404:
                    raise
                # It expired: this is news again.
        name = f"{note.subject.name[:220]}.{int(self._clock.wall() * 1e9) + next(self._serial):x}"
        body = self._body(note, name, namespace, await self._uid(note.subject)) | {"count": times}
        await self._api.create(EVENTS, namespace, body | {"firstTimestamp": now, "lastTimestamp": now})
        _remember(self._known, note, _Told(name, times))

    def _body(self, note: Note, name: str, namespace: str, uid: str) -> dict[str, Any]:
        subject = note.subject
        about = {"kind": subject.resource.kind, "apiVersion": subject.resource.api_version, "name": subject.name}
        return {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about | {"namespace": subject.namespace, "uid": uid},
            "type": note.type,
            "reason": note.reason,
            "action": note.action,
            "message": one_line(note.message)[:MESSAGE_LIMIT],
            "source": {"component": COMPONENT, "host": self._host},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._host,
        }

    async def _uid(self, subject: Subject) -> str:
        """Look up the uid by which `describe` finds its Events; a Node's is its name, as kube-proxy has it."""
        if subject.resource == NODES:
            return subject.name
        selector = f"metadata.name={subject.name}"
        found = await self._api.list(subject.resource, namespace=subject.namespace, field_selector=selector)
        if not found.items:
            return ""
        try:
            return str(msgspec.json.decode(found.items[0], type=_Identity).metadata.get("uid", ""))
        except msgspec.DecodeError:
            return ""


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep a value as the newest of a bounded number."""
    memory[key] = value
    if len(memory) > MOST_REMEMBERED:
        del memory[next(iter(memory))]
