"""What of the agent's state deserves an Event: its start, what it leaves out, and syncs that fail for long."""

from collections.abc import Callable

from kubeproxy.clock import Clock
from kubeproxy.health.events import Note, Subject
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.model.names import is_label, is_subdomain
from kubeproxy.store.informer import Key
from kubeproxy.store.resources import ENDPOINT_SLICES, NODES, SERVICES, Resource
from kubeproxy.sync.syncer import SyncStatus

LOOK_SECONDS = 10.0
REPEAT_SECONDS = 300.0
"""How often a sync that goes on failing is told again."""

_RESOURCES = {"Service": SERVICES, "EndpointSlice": ENDPOINT_SLICES}


class Announcer:
    """Turns states into notes, each once for as long as it lasts. Called on the event loop."""

    def __init__(self, record: Callable[[Note], None], node: str) -> None:
        self._record = record
        self._node = Subject(resource=NODES, name=node)
        self._left_out: frozenset[Note] = frozenset()
        self._error = ""

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
        """Tell what a sync newly leaves out."""
        self._error = status.last_error
        current = {
            _warning(
                Subject(resource=_RESOURCES[each.kind], namespace=each.namespace, name=each.name),
                "Rejected",
                "SyncProxyRules",
                f"{each.field} {each.value} is {each.reason}; it is left out",
            )
            for each in status.rejected
        }
        for port, why in status.quarantined:
            namespace, name = port.split(":")[0].split("/")[:2]
            subject = Subject(resource=SERVICES, namespace=namespace, name=name)
            text = f"port {port} is left out until it changes, the kernel refuses it: {why}"
            current.add(_warning(subject, "Quarantined", "SyncProxyRules", text))
        for note in sorted(current - self._left_out, key=lambda each: (each.subject.name, each.message)):
            self._record(note)
        self._left_out = frozenset(current)

    async def watch(self, health: ProxyHealth, clock: Clock) -> None:
        """Tell of syncs that fail for longer than the health allows, until cancelled."""
        last = -REPEAT_SECONDS
        while True:
            await clock.sleep(LOOK_SECONDS)
            if health.livez(clock.wall())[0] == 200:
                last = clock.now() - REPEAT_SECONDS
            elif clock.now() - last >= REPEAT_SECONDS:
                last = clock.now()
                text = f"changes do not reach the kernel: {self._error or 'a sync takes too long'}"
                self._record(_warning(self._node, "SyncFailed", "SyncProxyRules", text))


def _warning(subject: Subject, reason: str, action: str, message: str) -> Note:
    return Note(subject=subject, type="Warning", reason=reason, action=action, message=message)
