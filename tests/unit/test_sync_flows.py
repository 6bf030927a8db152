import logging
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.kernel.conntrack import ConntrackUnavailable
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_conntrack import FakeConntrack
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.ident import Key
from kubeproxy.model.node import node_state
from kubeproxy.model.objects import EndpointSlice, Protocol
from kubeproxy.model.settings import Settings
from kubeproxy.sync.flows import READINGS, FlowReconciler, FlowStatus
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.waiting import until

pytestmark = pytest.mark.unit

SETTINGS = Settings(node_name="node1")
VIP, POD1, POD2, NODE_IP = "10.96.0.10", "10.244.0.11", "10.244.0.12", "192.168.56.11"
WEB, DNS = ("default", "web"), ("default", "dns")


def flow(port: int, by: str = "", to: str = VIP, protocol: Protocol = Protocol.UDP) -> Flow:
    """Build the flow of the client port ``port``."""
    return Flow(
        protocol=protocol,
        source="10.244.0.2",
        source_port=port,
        destination=to,
        port=53,
        answerer=by or to,
        answerer_port=53,
    )


class Rig:
    """A reconciler that has seen one UDP Service with one endpoint, and flows to it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.conntrack = FakeConntrack(*(flow(port, POD1) for port in range(5)))
        self.world = world(
            service("dns", VIP, "53/UDP"),
            endpoint_slice("dns", "53/UDP", [POD1]),
            service("web", "10.96.0.11"),
            endpoint_slice("web", "80", [POD1]),
        )
        self.local: list[str] | KernelError = [NODE_IP]
        self.flows = FlowReconciler(self.conntrack, self._local, SETTINGS, Family.V4, self.clock)

    def _local(self) -> list[str]:
        if isinstance(self.local, KernelError):
            raise self.local
        return self.local

    def put(self, *pieces: EndpointSlice) -> FlowStatus:
        """Change slices and reconcile what they touch."""
        return self.sync(self.world.apply_slices({(each.namespace, each.name): each for each in pieces}))

    def sync(self, scope: set[Key] | None = None) -> FlowStatus:
        node = node_state(self.world, SETTINGS, Family.V4)
        return self.flows.reconcile(self.world.part(scope), node, scope, ())


@pytest.fixture
def rig() -> Rig:
    built = Rig()
    built.sync()
    built.conntrack.questions.clear()
    return built


MOVED = endpoint_slice("dns", "53/UDP", [POD2])


def test_flows_to_an_endpoint_that_is_gone_are_ended_and_no_others(rig: Rig) -> None:
    others = [
        flow(9, POD1, to="10.96.0.99"),
        flow(9, POD1, protocol=Protocol.TCP),
        flow(9, POD2),
        flow(9, to=POD1),
    ]
    for each in others:
        rig.conntrack.track(each)
    rig.conntrack.track(flow(10))  # its first packet came before any rule
    status = rig.put(MOVED)
    assert rig.conntrack.tracked == {str(each) for each in others}
    assert (status.runs, status.deleted, status.failures, status.error) == (2, 6, 0, "")


def test_the_table_is_not_read_when_nothing_can_be_stale(rig: Rig) -> None:
    assert rig.sync(set()) == rig.sync({WEB}) == rig.sync({DNS}) == rig.flows.status
    rig.put(endpoint_slice("web", "80", [POD2]))
    rig.put(endpoint_slice("dns", "53/UDP", [POD1, POD2]))
    assert rig.conntrack.questions == []
    assert rig.flows.status.runs == 1


def test_one_reading_serves_all_that_is_due(rig: Rig) -> None:
    rig.world.apply_services({("default", "log"): service("log", "10.96.0.12", "514/UDP", node_port=30514)})
    rig.world.apply_slices({("default", "log-abcde"): endpoint_slice("log", "514/UDP", [POD1])})
    rig.world.apply_slices({("default", "dns-abcde"): MOVED})
    rig.sync({("default", "log"), DNS})
    (question,) = rig.conntrack.questions
    assert question.ports == {53, 514, 30514}


def test_a_reading_that_is_interrupted_counts_and_is_repeated(rig: Rig) -> None:
    rig.conntrack.interruptions = [2, 1]
    status = rig.put(MOVED)
    assert len(rig.conntrack.questions) == 3
    assert (status.deleted, status.error, rig.conntrack.tracked) == (5, "", set())


def test_a_table_that_never_holds_still_is_told_once_and_tried_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig.conntrack.interruptions = [0] * (READINGS + 1) + [1] + [0] * (READINGS - 1)
    status = rig.put(MOVED)
    assert len(rig.conntrack.questions) == READINGS
    assert (status.failures, status.deleted) == (1, 0)
    assert "changed while it was read" in status.error
    # Not even touched: what was due stays so.
    status = rig.sync(set())
    assert (status.failures, status.deleted) == (2, 1)
    assert caplog.text.count("stale UDP flows of IPv4 may remain") == 1
    rig.conntrack.interruptions = []
    status = rig.sync({WEB})
    assert (status.failures, status.error, rig.conntrack.tracked) == (2, "", set())
    assert "no stale UDP flows of IPv4 remain" in caplog.text
    assert rig.sync(set()) == status


@pytest.mark.parametrize(
    "failure",
    [
        ConntrackUnavailable("conntrack: Invalid argument; modprobe nf_conntrack_netlink"),
        NetlinkError(1, "conntrack"),
    ],
)
def test_a_kernel_that_refuses_is_a_state(
    rig: Rig, failure: KernelError, caplog: pytest.LogCaptureFixture
) -> None:
    rig.conntrack.failures = [failure, failure]
    for _ in range(2):
        status = rig.put(MOVED)
        assert status.error == str(failure)
    assert caplog.text.count(str(failure)) == 1
    assert rig.sync(set()).error == ""
    assert rig.conntrack.tracked == set()


def test_a_deletion_that_is_refused_is_a_state(rig: Rig) -> None:
    rig.conntrack.before_delete = lambda: rig.conntrack.failures.append(NetlinkError(16, "conntrack"))
    assert "busy" in rig.put(MOVED).error
    rig.conntrack.before_delete = lambda: None
    assert rig.sync(set()).deleted == 5


def test_a_flow_that_ends_meanwhile_is_no_failure(rig: Rig) -> None:
    rig.conntrack.before_delete = lambda: rig.conntrack.entries.popitem() and None
    status = rig.put(MOVED)
    assert (status.deleted, status.error) == (4, "")


def test_addresses_that_cannot_be_asked_for_are_a_state(rig: Rig) -> None:
    rig.local = KernelError("addresses: no more sockets")
    assert rig.put(MOVED).error == "addresses: no more sockets"
    rig.local = [NODE_IP]
    assert rig.sync(set()).deleted == 5


def test_a_mistake_of_ours_is_a_state(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.conntrack.before_delete = lambda: {}["oops"]
    assert "KeyError" in rig.put(MOVED).error
    rig.conntrack.before_delete = lambda: None
    assert rig.sync(set()).deleted == 5


def test_a_full_sync_looks_at_everything_again(rig: Rig) -> None:
    rig.conntrack.track(msgspec.structs.replace(flow(20), answerer="10.244.0.50"))
    assert rig.sync().deleted == 1


class Turns:
    """A lock that tells who has asked for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked: list[threading.Thread] = []

    def __enter__(self) -> None:
        self.asked.append(threading.current_thread())
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class ReadSlowly(FakeConntrack):
    """Somebody does something while the table's first reading ends."""

    meanwhile: Callable[[], None] | None = None

    def flows(self, match: FlowMatch) -> Iterator[Flow]:
        yield from super().flows(match)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()


def test_a_repair_that_looks_at_flows_forgets_nothing_of_a_sync_that_comes_meanwhile() -> None:
    rig = Rig()
    rig.conntrack = rig.flows._conntrack = conntrack = ReadSlowly(*(flow(port, POD1) for port in range(5)))
    rig.sync()
    turns = rig.flows._lock = Turns()  # type: ignore[assignment]
    sync = threading.Thread(target=rig.put, args=[MOVED], daemon=True)

    def begin() -> None:
        # The kernel refuses the sync's reading, which is due still then; the repair's has met nothing stale.
        conntrack.failures = [NetlinkError(1, "conntrack")]
        sync.start()
        until(lambda: sync in turns.asked or not sync.is_alive(), "the sync waits for its turn, or had it")

    conntrack.meanwhile = begin
    rig.flows.look_at_all()
    sync.join(30)
    assert rig.flows.status.error == str(NetlinkError(1, "conntrack"))
    assert rig.sync(set()).deleted == 5
