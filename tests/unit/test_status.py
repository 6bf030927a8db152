"""`kubeproxy status`: what it says and with which exit status, and that nothing quoted in it is more than text."""

import io

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

from kubeproxy import status
from kubeproxy.clock import ManualClock
from kubeproxy.health.debug import About, metrics_app
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.statusz import AgentStatus, InformerStatus
from kubeproxy.model.addresses import Family
from kubeproxy.model.world import Rejection
from kubeproxy.sync.syncer import SyncStatus

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
        ({}, {"queued_since": 480.0}, "a change has waited 20 s for the kernel"),
        ({}, {"quarantined": (("ns/web/TCP", "refused"),)}, "ns/web/TCP is left out: refused"),
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


def test_a_change_on_its_way_is_no_complaint() -> None:
    assert shown(agent(family=msgspec.structs.replace(SYNCED, queued_since=499.0)))[0] == 0


def test_a_hostile_name_is_only_text() -> None:
    evil = msgspec.structs.replace(INFORMER, rejected=("[/red] \x1b[2J \x9b2J\n• forged",))
    _, text = shown(agent(informer=evil))
    assert "[/red] \\x1b[2J \\x9b2J\\n• forged" in text


async def test_what_the_agent_serves_is_what_the_command_reads() -> None:
    what = agent(family=msgspec.structs.replace(SYNCED, rejected=(REJECTION,), quarantined=(("a", "b"),)))
    async with TestServer(metrics_app(Metrics(), lambda: what, About(mode="iptables"), ManualClock())) as server:
        assert await status.fetch(str(server.make_url("/statusz.json"))) == what


async def test_something_else_at_the_port_is_told_apart() -> None:
    async def junk(_: web.Request) -> web.Response:
        return web.json_response([1])

    app = web.Application()
    app.add_routes([web.get("/statusz.json", junk)])
    async with TestServer(app) as server:
        with pytest.raises(msgspec.DecodeError):
            await status.fetch(str(server.make_url("/statusz.json")))
        with pytest.raises(aiohttp.ClientResponseError):
            await status.fetch(str(server.make_url("/none")))


def test_nobody_at_the_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--metrics-address=[::1]:1"]) == 1
    assert capsys.readouterr().err == "Error: no agent answers at [::1]:1: Connection refused\n"
