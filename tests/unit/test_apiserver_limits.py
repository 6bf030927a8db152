"""What a client may cost that is slow, greedy or silent: raw sockets against a running server."""

import asyncio
import contextlib
import gzip
import logging
import socket
import time
from ipaddress import ip_network

import aiohttp
import pytest

from kubeproxy.apiserver import gate, listening
from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.protection import Protection
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from tests.apiserver_bed import CONFIG_MAPS, PODS, api_bed
from tests.ports import free_port
from tests.scraping import scrape

pytestmark = pytest.mark.unit

SETTINGS = {"store": "sqlite::memory:", "ranges": Ranges(networks=(ip_network("10.96.0.0/12"),)), "port": 0}


@contextlib.asynccontextmanager
async def raw(url):
    host, port = url.split("//")[1].rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /api HTT",
        b"GET /api HTTP/1.1\r\nHost: localhost\r\nX-Half",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["nothing", "half a line", "half a header", "idle after an answer"],
)
async def test_a_connection_without_a_whole_request_ends(sent, monkeypatch):
    monkeypatch.setattr(listening, "IDLE_SECONDS", 0.3)
    async with running(Settings(**SETTINGS), SystemClock()) as url, raw(url) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert not answer or answer.startswith(b"HTTP/1.1 200 OK")


async def test_half_a_body_is_a_408(monkeypatch):
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.3)
    async with running(Settings(**SETTINGS), SystemClock()) as url, raw(url) as (reader, writer):
        head = f"POST {CONFIG_MAPS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode() + b'{"half":')
        async with asyncio.timeout(5):
            line = await reader.readline()
        assert line.split()[1] == b"408"


async def test_a_handshake_that_does_not_come_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 0.3)
    protection = Protection(tls=True, cert_dir=str(tmp_path))
    async with running(Settings(**SETTINGS, protection=protection), SystemClock()) as url:
        for sent in (b"", b"\x16\x03\x01\x02\x00", b"GET /api HTTP/1.1\r\n\r\n"):
            async with raw(url) as (reader, writer), asyncio.timeout(5):
                writer.write(sent)
                await reader.read()


async def test_headers_beyond_the_limits_are_refused():
    async with running(Settings(**SETTINGS), SystemClock()) as url:
        for headers in ("X-Long: " + "x" * 10_000, "\r\n".join(f"X-{number}: y" for number in range(200))):
            async with raw(url) as (reader, writer):
                writer.write(f"GET /api HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode())
                async with asyncio.timeout(5):
                    assert (await reader.readline()).split()[1] == b"400"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\njunk junk\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_400_and_leaves_no_trace(sent, caplog):
    async with running(Settings(**SETTINGS), SystemClock()) as url, raw(url) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b"400 Bad Request" in answer
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("gateway", [False, True])
async def test_a_packed_body_is_never_unpacked(gateway):
    """A megabyte of zeros is a kilobyte of gzip: unpacked as it comes, before anybody is asked who he is."""
    client = f"http://127.0.0.1:{free_port()}"
    packed = gzip.compress(bytes(50 << 20))
    async with running(Settings(**SETTINGS, client_urls=(client,)), SystemClock()) as api:
        url, code = (f"{client}/v3/kv/put", 400) if gateway else (api + CONFIG_MAPS, 415)
        async with aiohttp.ClientSession() as session:
            begin = time.process_time()
            async with session.post(url, data=packed, headers={"Content-Encoding": "gzip"}) as answer:
                assert answer.status == code
                assert "Content-Encoding" in await answer.text()
            assert time.process_time() - begin < 0.3


@pytest.mark.parametrize("tls", [False, True])
async def test_who_does_not_read_a_long_answer_is_cut_off(tls, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(listening, "UNREAD_SECONDS", 0.3)
    tokens = tmp_path / "tokens"
    tokens.write_text("t,root,0,system:masters\n")
    protection = Protection(tls=tls, cert_dir=str(tmp_path / "pki"), token_file=str(tokens))
    who = {"Authorization": "Bearer t"}
    settings = Settings(**SETTINGS, protection=protection)
    async with (
        running(settings, SystemClock()) as url,
        aiohttp.ClientSession(headers=who, connector=aiohttp.TCPConnector(ssl=False)) as session,
    ):
        for name in "abcdefghij":
            body = {"metadata": {"name": name}, "data": {"k": "x" * 1_000_000}}
            async with session.post(url + CONFIG_MAPS, json=body) as answer:
                assert answer.status == 201
        async with session.get(url + CONFIG_MAPS) as unread:
            assert unread.status == 200
            async with asyncio.timeout(10):
                while "does not read its answer: cut off" not in caplog.text:
                    await asyncio.sleep(0.01)
            with pytest.raises(aiohttp.ClientError):
                await unread.read()
        async with session.get(url + CONFIG_MAPS) as answer:
            assert len(await answer.read()) > 10_000_000, "who reads is served"


async def test_one_client_has_so_many_connections_and_gets_new_ones_when_it_lets_go(monkeypatch, caplog):
    monkeypatch.setattr(listening, "CONNECTIONS_PER_CLIENT", 5)
    monkeypatch.setattr(listening, "_is_local", lambda _client: False)
    async with running(Settings(**SETTINGS), SystemClock()) as url:
        async with contextlib.AsyncExitStack() as stack:
            refused = 0
            for _ in range(20):
                reader, writer = await stack.enter_async_context(raw(url))
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    refused += not await reader.readline()
            assert refused >= 15  # what runs inside the server has some, from the same address
        assert len([record for record in caplog.records if "too many connections" in record.getMessage()]) == 1

        async def answers():
            with contextlib.suppress(aiohttp.ClientError):
                async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as answer:
                    return answer.status == 200
            return False

        async with asyncio.timeout(5):
            while not await answers():
                await asyncio.sleep(0.01)
        async with aiohttp.ClientSession() as session:
            told = await scrape(session, url)
        assert told.value("kubeproxy_apiserver_connections_refused_total", server="api") >= refused


async def test_a_body_or_an_object_above_the_limit_is_a_413():
    async with api_bed() as bed:
        for size, code in ((4 << 20, 413), (2 << 20, 413), (1 << 20, 201)):
            args = ["x" * 1000] * (size // 1000)
            body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "args": args}]}}
            found, told = await bed.call("POST", PODS, body)
            assert found == code
            assert code == 201 or told["reason"] == "RequestEntityTooLarge"


async def test_a_flood_of_refusals_is_one_line(caplog):
    caplog.set_level(logging.INFO)
    settings = Settings(**SETTINGS, protection=Protection(anonymous=False))
    async with running(settings, SystemClock()) as url, aiohttp.ClientSession() as session:
        for _ in range(50):
            async with session.get(f"{url}{CONFIG_MAPS}") as answer:
                assert answer.status == 401
    assert len([record for record in caplog.records if record.getMessage().startswith("401 to")]) == 1


def test_a_socket_knows_whether_it_is_for_this_machine_only():
    with socket.create_server(("127.0.0.1", 0)) as local, socket.create_server(("0.0.0.0", 0)) as wide:
        assert (listening.is_loopback(local), listening.is_loopback(wide)) == (True, False)
