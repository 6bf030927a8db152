"""`GET /services` and the command that shows it: what is refused, what is bounded, how it looks, and `--watch`."""

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from rich.console import Console

from kubeproxy import status
from kubeproxy.clock import ManualClock, settle
from kubeproxy.kernel.exec import KernelError
from kubeproxy.model.addresses import Family
from kubeproxy.model.settings import Settings
from kubeproxy.redraw import redraw
from kubeproxy.testing.build import crowd
from kubeproxy.traffic.answer import Answer, Counts, Destination, Look, Port, Server
from kubeproxy.traffic.directory import Directory
from kubeproxy.traffic.http import answering
from kubeproxy.traffic.observer import MOST_WAITING, LookAt, Observer
from kubeproxy.traffic.question import Question
from kubeproxy.traffic.report import show_services

pytestmark = pytest.mark.unit


def port(name: str, rate: float = 0, family: str = "IPv4") -> Port:
    counts = Counts(
        active=3, inactive=1, connections=7, connections_rate=rate, bytes_in_rate=15300, bytes_out_rate=0
    )
    leaving = Destination(endpoint="10.244.1.2:8080", weight=0, draining=True, counts=counts)
    server = Server(
        way="cluster IP",
        address="10.96.0.1:80",
        protocol="TCP",
        scheduler="rr",
        affinity_seconds=10800,
        counts=counts,
        destinations=(leaving,),
    )
    return Port(service=name, protocol="TCP", family=family, servers=(server,))


def fixed(*ports: Port) -> LookAt:
    return lambda directory, question: Look(ports=ports)


@asynccontextmanager
async def agent(*looks: LookAt) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    by_family = dict(zip(Family, looks, strict=False))
    observer = Observer(crowd(2, 1), Settings(node_name="n1"), "ipvs", "IPVS", by_family)
    app = web.Application()
    app.add_routes([web.get("/services", answering(observer))])
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_both_families_are_one_answer_the_busiest_first() -> None:
    async with agent(fixed(port("a", 1), port("b")), fixed(port("c", 9, "IPv6"))) as client:
        body = await (await client.get("/services?top=2")).json()
    assert [each["service"] for each in body["ports"]] == ["c", "a"]
    assert body["left_off"] == 1


async def test_a_family_that_cannot_be_read_hides_no_other() -> None:
    def broken(directory: Directory, question: Question) -> Look:
        raise KernelError("no such module")

    async with agent(broken, fixed(port("c"))) as client:
        body = await (await client.get("/services")).json()
    assert [each["service"] for each in body["ports"]] == ["c"]
    assert body["unread"] == ["connections of IPv4 cannot be read: no such module"]


@pytest.mark.parametrize(
    ("query", "code", "complaint"),
    [
        ("?top=201", 400, "not between 1 and 200"),
        ("?who=me", 400, "unknown parameter"),
        ("?service=a/b", 404, "there is no Service a/b"),
    ],
)
async def test_questions_that_are_refused(query: str, code: int, complaint: str) -> None:
    async with agent(fixed()) as client:
        answer = await client.get(f"/services{query}")
        assert answer.status == code
        assert complaint in (await answer.json())["error"]


async def test_looks_are_taken_one_at_a_time_and_few_may_wait() -> None:
    go, running = threading.Event(), []

    def slow(directory: Directory, question: Question) -> Look:
        running.append(threading.current_thread())
        assert go.wait(20)
        return Look()

    async with agent(slow) as client:
        asked = [asyncio.ensure_future(client.get("/services")) for _ in range(MOST_WAITING + 1)]
        while not running:
            await asyncio.sleep(0.01)
        await settle(50)
        refused = await client.get("/services")
        assert (refused.status, (await refused.json())["error"]) == (
            503,
            "too many look at connections at once; try again",
        )
        assert len(running) == 1
        go.set()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * (MOST_WAITING + 1)


def shown(answer: Answer, width: int = 120) -> tuple[int, str]:
    out = io.StringIO()
    code = show_services(answer, Console(file=out, width=width))
    return code, out.getvalue()


ANSWER = Answer(node="n1", mode="ipvs", counted_by="IPVS", ports=(port("default/web", 12.5),))


def test_how_a_service_looks() -> None:
    code, text = shown(ANSWER)
    assert code == 0
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "default/web TCP IPv4" in lines
    assert "10.96.0.1:80/TCP cluster IP rr persistent 10800 s 3 1 7 12.5 15k 0" in lines
    assert "→ 10.244.1.2:8080 draining 0 3 1 7 12.5 15k 0" in lines


def test_what_is_not_counted_is_a_dash() -> None:
    bare = Destination(endpoint="10.244.0.2:53", weight=None, counts=Counts(inactive=4))
    server = Server(
        way="cluster IP",
        address="10.96.0.1:53",
        protocol="UDP",
        scheduler="random",
        counts=Counts(inactive=4),
        destinations=(bare,),
    )
    _, text = shown(
        Answer(
            node="n1",
            mode="iptables",
            counted_by="connection tracking",
            ports=(Port(service="default/dns", protocol="UDP", family="IPv4", servers=(server,)),),
        )
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "→ 10.244.0.2:53 - - 4 - - - -" in lines


def test_what_is_left_off_or_unread_is_said() -> None:
    code, text = shown(
        Answer(
            node="n1", mode="ipvs", counted_by="IPVS", left_off=3, unread=("no IPVS",), foreign=port("x").servers
        )
    )
    assert code == 3
    assert "and 3 more Service ports" in text
    assert "virtual servers that are not kubeproxy's" in text
    assert "• no IPVS" in text


def test_a_hostile_name_is_only_text() -> None:
    _, text = shown(Answer(node="n1", mode="ipvs", counted_by="IPVS", ports=(port("[red]\x1b[2J"),)))
    assert "[red]\\x1b[2J" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["a", "b"], "name one Service, or none"),
        (["--top=0"], ""),
        (["--services", "--top=0"], "not between 1 and 200"),
        (["--watch=0"], "not between 0.1 and 86400 seconds"),
        (["web_1"], "write namespace/name"),
        (["-o", "yaml"], "text or json"),
    ],
)
def test_command_lines(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*words, "--metrics-address=[::1]:1"]
    if complaint:
        with pytest.raises(SystemExit):
            status.main(line)
    else:
        assert status.main(line) == 1
    assert complaint in capsys.readouterr().err


def test_the_name_of_a_service() -> None:
    def asked(*words: str) -> object:
        return status._request(status.COMMAND_LINE.parse(words)).services

    assert asked() is None
    assert asked("--services") == {"top": "20"}
    assert asked("web") == {"top": "20", "service": "default/web"}
    assert asked("web", "-n", "shop") == {"top": "20", "service": "shop/web"}
    assert asked("web.shop") == {"top": "20", "service": "shop/web"}
    assert asked("-n", "shop", "--top=5") == {"top": "5", "namespace": "shop"}
    assert status._request(status.COMMAND_LINE.parse(["--watch", "web"])).watch == 2
    assert status._request(status.COMMAND_LINE.parse(["-w", "--watch=0.5"])).watch == 0.5


async def test_a_watch_outlives_the_agent(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    async with agent(fixed(port("default/web"))) as client:
        place = client.server
        assert place.port is not None
        request = status.Request(agent=(place.host, place.port), services={}, watch=2.0, output="text")
        console = Console(width=120, force_terminal=False)
        watch = asyncio.ensure_future(status._watch(request, console, clock))

        async def seen(text: str, times: int) -> None:
            found = ""
            for _ in range(500):
                found += capsys.readouterr().out
                if found.count(text) >= times:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(found)

        await seen("default/web", 1)
        await clock.step(2.0)
        await seen("default/web", 1)
        await client.close()
        await clock.step(2.0)
        await seen("no agent answers", 1)
        assert not watch.done()
        watch.cancel()
        await asyncio.wait({watch})


async def test_a_picture_that_is_higher_than_the_terminal_is_cut_and_says_so() -> None:
    out = io.StringIO()
    console = Console(file=out, width=40, height=5, force_terminal=True, color_system=None)

    async def draw(where: Console) -> None:
        for number in range(9):
            where.print(f"line {number}")

    clock = ManualClock()
    task = asyncio.ensure_future(redraw(draw, console, clock, 1.0))
    await settle(20)
    task.cancel()
    await asyncio.wait({task})
    text = out.getvalue()
    assert "line 3" in text
    assert "line 4" not in text
    assert "... 5 more lines" in text
    assert text.index("\x1b[?1049h") < text.index("\x1b[?1049l")


async def test_json_is_what_the_agent_said(capsys: pytest.CaptureFixture[str]) -> None:
    async with agent(fixed(port("default/web"))) as client:
        assert client.server.port is not None
        where = (client.server.host, client.server.port)
        request = status.Request(agent=where, services={}, watch=0.0, output="json")
        assert await status._draw(request, Console(force_terminal=False)) == 0
        assert json.loads(capsys.readouterr().out)["ports"][0]["service"] == "default/web"
