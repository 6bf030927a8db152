"""What of the agent's state deserves an Event: its start, what it leaves out, and syncs that fail for long."""

import logging
from collections.abc import Callable, Iterator

from kubeproxy.clock import Clock
from kubeproxy.health.events import Note, Subject
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.model.addresses import Family
from kubeproxy.model.names import is_label, is_subdomain
from kubeproxy.store.informer import Key
from kubeproxy.store.resources import ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES, Resource
from kubeproxy.sync.status import SyncStatus

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
REPEAT_SECONDS = 300.0
"""How often a sync that goes on failing is told again."""

_RESOURCES = {each.kind: each for each in (SERVICES, ENDPOINT_SLICES, SERVICE_CIDRS)}


class Announcer:
    """Turns states into notes and log lines, each once for as long as it lasts. Called on the event loop."""

    def __init__(self, record: Callable[[Note], None], node: str) -> None:
        self._record = record
        self._node = Subject(resource=NODES, name=node)
        self._reported: dict[Family, tuple[object, ...]] = {}
        """What each family's last status left out, and had put into quarantine."""
        self._left_out: dict[Family, frozenset[Note]] = {}
        self._errors: dict[Family, str] = {}

    def started(self) -> None:
        """Tell that the agent runs, in kube-proxy's words."""
        self._record(Note(subject=self._node, type="Normal", reason="Starting", action="StartKubeProxy"))

    def unreadable(self, resource: Resource, key: Key, why: str) -> None:
        """Tell that an object cannot be used; one whose name is no name cannot be told of."""
        namespace, name = key
        if is_subdomain(name) and (is_label(namespace) or not resource.namespaced):
            subject = Subject(resource=resource, namespace=namespace, name=name)
            self._record(_warning(subject, "Unreadable", "Decode", f"left out: {why}"))

    def not_listening(self, key: Key, port: int, why: str) -> None:
        """Tell that a Service's health check node port is not open, in kube-proxy's words."""
        namespace, name = key
        text = f'node {self._node.name} failed to start healthcheck "{namespace}/{name}" on port {port}: {why}'
        subject = Subject(resource=SERVICES, namespace=namespace, name=name)
        self._record(_warning(subject, "FailedToStartServiceHealthcheck", "Listen", text))

    def note(self, status: SyncStatus) -> None:
        """Tell what a sync newly leaves out or does otherwise; what both families do, once."""
        self._errors[status.family] = status.last_error
        reported = status.rejected, status.quarantined, status.notes
        if self._reported.get(status.family) == reported:
            return  # nearly every status
        known = frozenset[Note]().union(*self._left_out.values())
        current = frozenset(_left_out(status))
        for note in sorted(current - known, key=lambda each: (each.subject.name, each.message)):
            about = note.subject
            log.warning(
                "%s %s: %s", about.resource.kind, f"{about.namespace}/{about.name}".lstrip("/"), note.message
            )
            self._record(note)
        self._reported[status.family], self._left_out[status.family] = reported, current

    async def watch(self, health: ProxyHealth, clock: Clock) -> None:
        """Tell of syncs that fail for longer than the health allows, until cancelled."""
        last = -REPEAT_SECONDS
        while True:
            await clock.sleep(LOOK_SECONDS)
            if health.livez(clock.wall())[0] == 200:
                last = clock.now() - REPEAT_SECONDS
            elif clock.now() - last >= REPEAT_SECONDS:
                last = clock.now()
                error = next(filter(None, self._errors.values()), "a sync takes too long")
                text = f"changes do not reach the kernel: {error}"
                self._record(_warning(self._node, "SyncFailed", "SyncProxyRules", text))


def _left_out(status: SyncStatus) -> Iterator[Note]:
    for each in status.rejected:
        if each.kind not in _RESOURCES:
            continue  # how many more there are
        subject = Subject(resource=_RESOURCES[each.kind], namespace=each.namespace, name=each.name)
        text = f"{each.field} {each.value} is {each.reason}; it is left out"
        yield _warning(subject, "Rejected", "SyncProxyRules", text)
    for port, why in status.quarantined:
        text = f"port {port} is left out until it changes, the kernel refuses it: {why}"
        yield _warning(_service_of(port), "Quarantined", "SyncProxyRules", text)
    for port, why in status.notes:
        text = f"port {port} is served otherwise than asked: {why}"
        yield _warning(_service_of(port), "ServedOtherwise", "SyncProxyRules", text)


def _service_of(port: str) -> Subject:
    namespace, name = port.split(":")[0].split("/")[:2]
    return Subject(resource=SERVICES, namespace=namespace, name=name)


def _warning(subject: Subject, reason: str, action: str, message: str) -> Note:
    return Note(subject=subject, type="Warning", reason=reason, action=action, message=message)
