"""One change of one in thousands of Services goes through nothing that is as large as the cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.following import Following
from kubeproxy.health.announce import Announcer
from kubeproxy.health.changes import Changes
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.report import SyncReport
from kubeproxy.health.service_health import ServiceHealth
from kubeproxy.kernel.fake_conntrack import FakeConntrack
from kubeproxy.model.addresses import Family
from kubeproxy.store.kube_wire import Page, StreamingUnsupported, WatchEvent
from kubeproxy.store.resources import ENDPOINT_SLICES, SERVICES, Resource
from kubeproxy.sync.flows import FlowReconciler
from kubeproxy.sync.status import SyncStatus
from kubeproxy.sync.syncer import Intervals, Syncer
from tests import iptables_node, ipvs_node, nftables_node
from tests.sealed import Walked, Walks, seal

pytestmark = pytest.mark.unit

AnyNode = iptables_node.Node | ipvs_node.Node | nftables_node.Node

SERVICES_IN_ALL = 5000
STICKY, LOCAL, CONTESTED = range(500, 1000), range(1000, 1500), range(1500, 2000)
"""Which of them are out of the ordinary, each kind in a number that would be noticed."""


def service(number: int, **spec: object) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    whole: dict[str, Any] = {"clusterIP": _address("10.96", number), "ports": ports, **spec}
    if number in STICKY:
        whole["sessionAffinity"] = "ClientIP"
    elif number in LOCAL:
        ports[0]["nodePort"] = 30000 + number
        whole |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
        whole |= {"healthCheckNodePort": 40000 + number}
    elif number in CONTESTED:
        whole["externalIPs"] = ["192.0.2.1", "127.0.0.1"]  # all want the same, and none may have the other
    whole["clusterIPs"] = [whole["clusterIP"]]
    return {"metadata": {"namespace": "crowd", "name": f"svc-{number}"}, "spec": whole}


def endpoints(number: int, *, turn: int = 0) -> dict[str, Any]:
    owner = {"kubernetes.io/service-name": f"svc-{number}"}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    first = _address("10.244", number)
    return {
        "metadata": {"namespace": "crowd", "name": f"svc-{number}-1", "labels": owner},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [
            {"addresses": [first], "nodeName": "elsewhere"},
            {"addresses": [_address("10.245", number + turn)], "nodeName": "node1" if turn else "elsewhere"},
        ],
    }


def _address(net: str, number: int) -> str:
    return f"{net}.{number // 200}.{number % 200 + 1}"


class Server:
    """An API server with a crowd of Services, which tells of changes."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Queue[WatchEvent]] = {"services": asyncio.Queue()}
        self.events["endpointslices"] = asyncio.Queue()
        self._revision = 1

    def tell(self, resource: Resource, kind: str, thing: dict[str, Any]) -> None:
        self._revision += 1
        thing["metadata"]["resourceVersion"] = str(self._revision)
        self.events[resource.plural].put_nowait(WatchEvent(type=kind, object=msgspec.json.encode(thing)))

    async def pages(self, resource: Resource, **_: Any) -> AsyncIterator[Page]:
        items = tuple(msgspec.Raw(msgspec.json.encode(each)) for each in self.everything(resource))
        yield Page(items=items, revision="1", more="")

    def everything(self, resource: Resource) -> list[dict[str, Any]]:
        """Return all there is of a kind."""
        make = {SERVICES.plural: service, ENDPOINT_SLICES.plural: endpoints}.get(resource.plural)
        return [make(number) for number in range(SERVICES_IN_ALL)] if make else []

    async def watch(self, resource: Resource, revision: str, **_: Any) -> AsyncIterator[WatchEvent]:
        if not revision:
            raise StreamingUnsupported("lists only")
        while resource.plural not in self.events:
            await asyncio.Event().wait()
        while True:
            yield await self.events[resource.plural].get()


class Path:
    """All that a change passes, from the watch to a model kernel."""

    def __init__(self, node: AnyNode, server: Server) -> None:
        self.clock, self.server = ManualClock(), server
        self.world, self.kernel = node.world, node
        self.conntrack = FakeConntrack()
        self.tasks: list[asyncio.Task[None]] = []
        health = ProxyHealth([Family.V4], 30)
        self.announcer = Announcer(lambda note: None, "node1")
        self.checks = ServiceHealth(Family.V4, self.clock, lambda: True, lambda *trouble: None)
        changes = Changes([Family.V4], self.clock.wall())
        self.report = SyncReport(Metrics([Family.V4]), health, changes, {Family.V4: self.checks}, self.clock)
        settings = node.settings
        self.syncer = Syncer(
            self.world,
            node.backend,
            settings,
            Family.V4,
            self.clock,
            self._ended,
            Intervals(),
            self.report.synced,
            FlowReconciler(self.conntrack, lambda: (), settings, Family.V4, self.clock),
        )
        self.following = Following(
            self.server,  # type: ignore[arg-type]
            self.clock,
            "node1",
            self.world,
            [self.syncer],
            self.report,
            health,
            self.announcer,
            self.syncer.synced,
        )

    def _ended(self, status: SyncStatus) -> None:
        self.report.note(status)
        self.announcer.note(status)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(20_000):
            await settle(2)
            if condition():
                return
            for task in self.tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.001)
        raise AssertionError(f"never came: {self.syncer.status.last_error}")

    async def until_synced(self, syncs: int) -> None:
        await self.until(lambda: self.syncer.status.syncs >= syncs or self.syncer.status.failures > 0)
        assert not self.syncer.status.last_error

    def seal(self) -> int:
        """Seal everything but the model of the kernel, and what only describes."""
        fakes = [
            value for value in vars(self.kernel).values() if type(value).__name__.startswith(("Fake", "Servers"))
        ]
        return seal([self.following, self.syncer, self.report, self.announcer], but=[*fakes, self.server])


@asynccontextmanager
async def path(node: AnyNode, server: Server | None = None) -> AsyncIterator[Path]:
    built = Path(node, server or Server())
    built.tasks = [asyncio.create_task(each.run()) for each in built.following.informers.values()]
    built.tasks.append(asyncio.create_task(built.syncer.run()))
    await built.clock.step(1)
    yield built
    for task in built.tasks:
        task.cancel()


@pytest.mark.parametrize("node", [iptables_node.Node, ipvs_node.Node, nftables_node.Node])
async def test_one_change_of_one_service_goes_through_nothing_large(node: Callable[[], Any]) -> None:
    async with path(node()) as it:
        await it.until_synced(1)
        await it.until(lambda: it.syncer.status.flows.runs == 1)  # of all flows, once
        assert it.seal() > 14
        server, syncs = it.server, it.syncer.status.syncs
        steps: list[tuple[Resource, str, dict[str, Any]]] = []
        for number in (0, STICKY[0], LOCAL[0], CONTESTED[1]):
            steps.append((ENDPOINT_SLICES, "MODIFIED", endpoints(number, turn=number + 3)))
        steps.append((SERVICES, "ADDED", service(SERVICES_IN_ALL)))
        steps.append((ENDPOINT_SLICES, "ADDED", endpoints(SERVICES_IN_ALL)))
        steps.append((SERVICES, "MODIFIED", service(0, sessionAffinity="ClientIP")))
        steps.append((SERVICES, "DELETED", service(1)))
        steps.append((ENDPOINT_SLICES, "DELETED", endpoints(1)))
        for resource, kind, thing in steps:
            server.tell(resource, kind, thing)
            syncs += 1
            await it.until_synced(syncs)
        await settle()
        assert not it.syncer.status.flows.error
        assert it.syncer.status.full_syncs == 1


SLICES, ENDPOINTS_EACH, NODES = 100, 100, 3000


def piece(number: int, *changed: int) -> dict[str, Any]:
    """Return one of the slices of a Service that has many; in place of the endpoints ``changed`` are others."""
    addresses = [f"10.{200 if i in changed else 244}.{number}.{i}" for i in range(ENDPOINTS_EACH)]
    return {
        "metadata": {
            "namespace": "crowd",
            "name": f"large-{number}",
            "labels": {"kubernetes.io/service-name": "large"},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
        "endpoints": [
            {"addresses": [address], "nodeName": f"node{(number * ENDPOINTS_EACH + i) % NODES}"}
            for i, address in enumerate(addresses)
        ],
    }


class LargeService(Server):
    """An API server with one Service, of a crowd of endpoints."""

    def __init__(self, affinity: str) -> None:
        super().__init__()
        self._affinity = affinity

    def everything(self, resource: Resource) -> list[dict[str, Any]]:
        if resource is ENDPOINT_SLICES:
            return [piece(number) for number in range(SLICES)]
        return [self.service()] if resource is SERVICES else []

    def service(self) -> dict[str, Any]:
        """Return the Service: all that there may be of it goes through its endpoints."""
        ports = [
            {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]
        spec = {
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1"],
            "externalIPs": ["192.0.2.1"],
            "ports": ports,
        }
        spec |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}
        spec |= {"sessionAffinity": self._affinity}
        return {"metadata": {"namespace": "crowd", "name": "large"}, "spec": spec}


@pytest.mark.parametrize(
    ("node", "affinity"),
    [
        (ipvs_node.Node, "None"),
        (ipvs_node.Node, "ClientIP"),
        (nftables_node.Node, "None"),
        (nftables_node.Node, "ClientIP"),
        (iptables_node.Node, "None"),  # its chain has a rule for each endpoint when that remembers clients
    ],
)
async def test_one_changed_endpoint_of_thousands_goes_through_none_of_the_others(
    node: Callable[[], Any], affinity: str
) -> None:
    async with path(node(), LargeService(affinity)) as it:
        await it.until_synced(1)
        it.server.tell(ENDPOINT_SLICES, "MODIFIED", piece(7, 50))  # the first is what orders are remembered from
        await it.until(lambda: it.syncer.status.flows.runs == 2)
        walks = Walks(it.world.slices.values())
        assert walks.watched > 500
        for turn in range(1, 4):
            walks.walked.clear()
            it.server.tell(ENDPOINT_SLICES, "MODIFIED", piece(20 * turn, 50))
            await it.until(lambda runs=2 + turn: it.syncer.status.flows.runs == runs)
            assert 0 < len(walks.walked) < 40, walks.walked
        assert it.syncer.status.full_syncs == 1
        assert it.syncer.status.syncs == 5
        for merged in it.world.endpoints_of(("crowd", "large"), Family.V4).values():
            assert len(list(merged)) == SLICES * ENDPOINTS_EACH
        assert len(walks.walked) > 100, "who goes through all is caught"


def test_the_seal_catches_who_goes_through_all() -> None:
    class Holder:
        __module__ = "tests.unit"

        def __init__(self) -> None:
            self.things = dict.fromkeys(range(1000))

    holder = Holder()
    assert seal([holder]) == 1
    assert holder.things[5] is None
    for walk in (list, sorted, dict, set, lambda things: things | {}, lambda things: {**things}):
        with pytest.raises(Walked):
            walk(holder.things)
