"""`kubeproxy status`: what it says and with which exit status, and that nothing quoted in it is more than text."""

import io
import re

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

from kubeproxy import status
from kubeproxy.clock import ManualClock
from kubeproxy.health.debug import About, metrics_app
from kubeproxy.health.http import WHERE_TO_LOOK
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.service_health import HealthCheckStatus
from kubeproxy.health.statusz import AgentStatus, DroppedHere, InformerStatus
from kubeproxy.model.addresses import Family
from kubeproxy.model.admission import Rejection
from kubeproxy.sync.flows import FlowStatus
from kubeproxy.sync.status import SyncStatus

pytestmark = pytest.mark.unit

INFORMER = InformerStatus(synced=True, connected=True, objects=3, failures=0, rejected=())
SYNCED = SyncStatus(family=Family.V4, synced=True, last_success=940, syncs=2, full_syncs=1, ports=3, endpoints=9)
REJECTION = Rejection(
    kind="Service",
    namespace="ns",
    name="web",
    field="spec.externalIPs",
    value="127.0.0.1",
    reason="a loopback address",
)


def agent(informer: InformerStatus = INFORMER, family: SyncStatus = SYNCED) -> AgentStatus:
    return AgentStatus(
        mode="iptables",
        flavour="nft",
        node="n1",
        wall=1000,
        clock=500,
        informers={"services": informer},
        families=(family,),
    )


def shown(what: AgentStatus) -> tuple[int, str]:
    out = io.StringIO()
    code = status.show(what, Console(file=out, width=80, force_terminal=True))
    return code, out.getvalue()


def test_all_is_well() -> None:
    code, text = shown(agent())
    assert code == 0
    assert "0:01:00 ago" in text
    assert "2 (1 full)" in text
    assert "•" not in text


def test_what_is_wrong_in_both_families_is_told_once() -> None:
    family = msgspec.structs.replace(SYNCED, rejected=(REJECTION,))
    both = msgspec.structs.replace(agent(), families=(family, msgspec.structs.replace(family, family=Family.V6)))
    assert shown(both)[1].count("ns/web") == 1


@pytest.mark.parametrize(
    ("informer", "family", "complaint"),
    [
        ({"synced": False}, {}, "has not answered yet"),
        (
            {"connected": False, "away_since": 400.0, "trouble": "refused"},
            {},
            "services: the API server is away for 0:10:00 (refused); the last good state is kept",
        ),
        ({"rejected": ("ns/x: metadata.name",)}, {}, "services ns/x: metadata.name; it is left out"),
        ({}, {"last_error": "no such module"}, "the last sync failed: no such module"),
        ({}, {"flows": FlowStatus(error="conntrack: no")}, "UDP flows to endpoints that are gone may remain"),
        ({}, {"queued_since": 480.0}, "a change has waited 20 s for the kernel"),
        ({}, {"quarantined": (("ns/web/TCP", "refused"),)}, "ns/web/TCP is left out: refused"),
        ({}, {"notes": (("ns/web/TCP", "no nq"),)}, "ns/web/TCP is served otherwise than asked: no nq"),
        ({}, {"rejected": (REJECTION,)}, "spec.externalIPs 127.0.0.1 is a loopback address; it is left out"),
    ],
)
def test_what_is_late_or_left_out_is_said(
    informer: dict[str, object], family: dict[str, object], complaint: str
) -> None:
    what = agent(msgspec.structs.replace(INFORMER, **informer), msgspec.structs.replace(SYNCED, **family))
    code, text = shown(what)
    assert code == 3
    assert complaint in text


CHECK = HealthCheckStatus(family=Family.V4, service="ns/web", port=31000, endpoints=2)


def test_health_check_ports_are_shown() -> None:
    code, text = shown(msgspec.structs.replace(agent(), health_checks=(CHECK,)))
    assert code == 0
    assert re.search(r"ns/web +IPv4 +31000 +2 +yes", text)


def test_a_health_check_port_that_is_not_open_is_a_complaint() -> None:
    silent = msgspec.structs.replace(CHECK, trouble="Address already in use")
    code, text = shown(msgspec.structs.replace(agent(), health_checks=(silent,)))
    assert code == 3
    assert "ns/web: health check node port 31000 (IPv4) is not open: Address already in use" in text


def test_what_is_dropped_for_want_of_local_endpoints_is_said_and_no_complaint() -> None:
    many = tuple(f"ns/svc-{i:02}/TCP" for i in range(status.SHOWN + 5))
    dropped = DroppedHere(family=Family.V4, cluster_ip=("ns/web/TCP",), external=many)
    code, text = shown(msgspec.structs.replace(agent(), dropped_here=(dropped,)))
    assert code == 0
    assert "IPv4 cluster IP traffic is dropped, no local endpoints: ns/web/TCP\n" in text
    assert "no local endpoints: ns/svc-00/TCP, " in text
    assert "ns/svc-19/TCP and 5 more" in text


def test_what_another_proxy_left_is_said() -> None:
    left = msgspec.structs.replace(agent(), leftovers=("set KUBE-IPVS-IPS stays: delete the rule",))
    code, text = shown(left)
    assert code == 3
    assert "left by another proxy: set KUBE-IPVS-IPS stays: delete the rule" in text


def test_a_change_on_its_way_is_no_complaint() -> None:
    assert shown(agent(family=msgspec.structs.replace(SYNCED, queued_since=499.0)))[0] == 0


def test_a_hostile_name_is_only_text() -> None:
    evil = msgspec.structs.replace(INFORMER, rejected=("[/red] \x1b[2J \x9b2J\n• forged",))
    _, text = shown(agent(informer=evil))
    assert "[/red] \\x1b[2J \\x9b2J\\n• forged" in text


async def test_what_the_agent_serves_is_what_the_command_reads() -> None:
    family = msgspec.structs.replace(SYNCED, rejected=(REJECTION,), quarantined=(("a", "b"),))
    dropped = DroppedHere(family=Family.V4, external=("ns/web/TCP",))
    what = msgspec.structs.replace(agent(family=family), health_checks=(CHECK,), dropped_here=(dropped,))
    async with TestServer(metrics_app(Metrics(), lambda: what, About(mode="iptables"), ManualClock())) as server:
        assert await status.fetch(str(server.make_url("/statusz.json")), AgentStatus) == what


async def test_something_else_at_the_port_is_told_apart() -> None:
    async def junk(_: web.Request) -> web.Response:
        return web.json_response([1])

    app = web.Application()
    app.add_routes([web.get("/statusz.json", junk)])
    async with TestServer(app) as server:
        with pytest.raises(msgspec.DecodeError):
            await status.fetch(str(server.make_url("/statusz.json")), AgentStatus)
        with pytest.raises(aiohttp.ClientResponseError):
            await status.fetch(str(server.make_url("/none")), AgentStatus)


def test_nobody_at_the_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--metrics-address=[::1]:1"]) == 1
    assert capsys.readouterr().err == f"Error: no agent answers at [::1]:1: Connection refused. {WHERE_TO_LOOK}\n"
