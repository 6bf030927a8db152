"""/healthz and /livez: kube-proxy's table (reference/kube-proxy.md §6.2 row 53), and the servers that show it."""

import pytest
from aiohttp.test_utils import TestClient, TestServer

from kubeproxy.clock import ManualClock
from kubeproxy.health.debug import About, metrics_app
from kubeproxy.health.http import AddressError, health_app, parse_address
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.statusz import AgentStatus
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Node

pytestmark = pytest.mark.unit

STATUS = AgentStatus(mode="iptables", flavour="nft", node="n1", wall=0, clock=0, informers={}, families=())
NODE = Node(name="n1")


def health() -> ProxyHealth:
    return ProxyHealth([Family.V4, Family.V6], sync_period=30)


def test_a_fresh_start_is_healthy() -> None:
    assert health().healthz(100)[0] == 200


@pytest.mark.parametrize(("waited", "code"), [(0, 200), (59, 200), (60, 503), (600, 503)])
def test_an_update_may_wait_twice_the_sync_period(waited: float, code: int) -> None:
    state = health()
    state.queued(Family.V4, 100)
    state.queued(Family.V4, 100 + waited)
    assert state.healthz(100 + waited)[0] == code
    assert state.livez(100 + waited)[0] == code


def test_an_update_that_arrived_heals() -> None:
    state = health()
    state.queued(Family.V4, 100)
    assert state.healthz(200)[0] == 503
    state.updated(Family.V4, 200)
    assert state.healthz(500)[0] == 200


def test_it_says_how_old_the_state_is_and_is_healthy_all_the_same() -> None:
    state = health()
    assert state.healthz(1000)[1]["apiServer"] == {"connected": True, "stateAgeSeconds": 0.0}
    state.away_since = lambda: 400.0
    code, body = state.healthz(1000)
    assert (code, body["apiServer"]) == (200, {"connected": False, "stateAgeSeconds": 600.0})


LATEST, NEVER = "1970-01-01T00:03:10Z", "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("queued", "node", "now", "code", "updated"),
    [
        (None, NODE, 200, 200, "1970-01-01T00:03:20Z"),  # now
        (100, NODE, 200, 503, LATEST),
        (None, Node(name="n1", deleted=True), 200, 503, LATEST),
    ],
)
def test_last_updated_is_now_while_all_is_well_and_else_the_last_sync_of_any_family(
    queued: float | None, node: Node, now: float, code: int, updated: str
) -> None:
    state = health()
    state.updated(Family.V4, 50)
    state.updated(Family.V6, 190)
    state.node_changed(node)
    if queued is not None:
        state.queued(Family.V4, queued)
    found, body = state.healthz(now)
    assert (found, body["lastUpdated"], body["currentTime"]) == (code, updated, "1970-01-01T00:03:20Z")
    assert body["status"]["IPv4"]["lastUpdated"] == "1970-01-01T00:00:50Z"
    if node.deleted:
        assert body["healthy"] is True
        assert state.livez(now)[1]["lastUpdated"] == "1970-01-01T00:03:20Z"


def test_what_has_never_happened_has_gos_zero_time() -> None:
    state = health()
    state.queued(Family.V4, 100)
    code, body = state.healthz(200)
    assert (code, body["lastUpdated"], body["status"]["IPv6"]["lastUpdated"]) == (503, NEVER, NEVER)


def test_the_fields_are_in_upstreams_order() -> None:
    upstream = ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]
    assert list(health().healthz(1)[1]) == [*upstream, "apiServer"]
    assert list(health().livez(1)[1]) == [field for field in upstream if field != "nodeEligible"]


def test_one_late_family_is_named() -> None:
    state = health()
    state.queued(Family.V4, 100)
    state.updated(Family.V6, 190)
    code, body = state.healthz(200)
    assert code == 503
    assert {family: status["healthy"] for family, status in body["status"].items()} == {
        "IPv4": False,
        "IPv6": True,
    }


@pytest.mark.parametrize(
    ("node", "code"),
    [
        (NODE, 200),
        (None, 503),
        (Node(name="n1", deleted=True), 503),
        (Node(name="n1", taint_keys=("ToBeDeletedByClusterAutoscaler",)), 503),
        (Node(name="n1", taint_keys=("other",)), 200),
    ],
)
def test_a_node_that_goes_away_is_not_eligible_but_live(node: Node | None, code: int) -> None:
    state = health()
    state.node_changed(node)
    assert state.healthz(100)[0] == code
    assert state.livez(100)[0] == 200


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:10256", ("0.0.0.0", 10256)),
        ("0.0.0.0", ("0.0.0.0", 10256)),
        ("[::]:1", ("::", 1)),
        ("::1", ("::1", 10256)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 10256) == address


@pytest.mark.parametrize("text", ["0.0.0.0:0", "0.0.0.0:99999", "0.0.0.0:x"])
def test_bad_listen_addresses(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text, 10256)


async def test_the_servers_answer_as_kube_proxys_do() -> None:
    metrics, state, clock = Metrics(), health(), ManualClock()
    async with TestClient(TestServer(health_app(state, metrics, clock))) as client:
        answer = await client.get("/healthz")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert {"lastUpdated", "currentTime", "nodeEligible", "healthy", "status"} < set(await answer.json())
        assert "nodeEligible" not in await (await client.get("/livez")).json()
    async with TestClient(
        TestServer(metrics_app(metrics, lambda: STATUS, About(mode="iptables"), clock))
    ) as client:
        assert await (await client.get("/proxyMode")).text() == "iptables"
        text = await (await client.get("/metrics")).text()
        assert 'kubeproxy_proxy_healthz_total{code="200"} 1.0' in text
        assert 'kubeproxy_proxy_livez_total{code="200"} 1.0' in text
