"""The API client and its credentials, over real TLS on loopback: rotation, refusals, strangers."""

import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kubeproxy.access import find_access
from kubeproxy.clock import SystemClock
from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import SERVICES
from tests.certificates import Authority
from tests.unit.test_kubeconfig import write

pytestmark = pytest.mark.unit

LIST = '{"metadata":{"resourceVersion":"7"},"items":[]}'


class Secured:
    """An HTTPS server that asks for a client certificate, and a kubeconfig for it in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.serve_as("127.0.0.1")
        self.context.load_verify_locations(self.authority.cafile)
        self.seen: list[tuple[str, str]] = []
        self.accepted = "one"
        self.port = 0
        (directory / "token").write_text("one")
        self.rotate_client("me")

    def serve_as(self, host: str) -> None:
        self.context.load_cert_chain(*self.authority.issue("server", host))

    def rotate_client(self, name: str) -> None:
        certificate, key = self.authority.issue(name)
        certificate.replace(self.directory / "client.crt")
        key.replace(self.directory / "client.key")

    async def handle(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert") or {}
        name = next((pair[0][1] for pair in peer.get("subject", ())), "")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.seen.append((name, token))
        if token != self.accepted:
            return web.Response(status=401, text='{"kind":"Status","code":401,"reason":"Unauthorized"}')
        return web.Response(text=LIST)

    def client(self, **cluster: str) -> KubeClient:
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": "ca.pem"} | cluster
        user = {"client-certificate": "client.crt", "client-key": "client.key", "tokenFile": "token"}
        access = find_access(SystemClock(), kubeconfig=str(write(self.directory / "config", cluster, user)))
        assert access is not None
        return KubeClient(access)


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    bed = Secured(tmp_path)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", bed.handle)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=bed.context)
    assert server.port
    bed.port = server.port
    yield bed
    await server.close()


async def test_what_rotates_on_disk_is_used_by_the_next_request(secured: Secured) -> None:
    async with secured.client() as client:
        await client.list(SERVICES)
        secured.accepted = "two"
        (secured.directory / "token").write_text("two")
        secured.rotate_client("me-again")
        await client.list(SERVICES)
    assert secured.seen == [("me", "one"), ("me-again", "two")]


async def test_a_refused_token_is_read_again_once_and_only_if_there_is_another(secured: Secured) -> None:
    async with secured.client() as client:
        secured.accepted = "two"
        with pytest.raises(ApiError) as refused:
            await client.list(SERVICES)
        assert refused.value.code == 401
        assert len(secured.seen) == 1
        secured.accepted = "one"
        await client.list(SERVICES)


async def test_files_that_vanish_or_do_not_fit_leave_the_last_good_ones_in_use(
    secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured.client() as client:
        await client.list(SERVICES)
        (secured.directory / "token").unlink()
        secured.authority.issue("client")[1].unlink()  # a rotation, half-way
        (secured.directory / "ca.pem").write_text("rubbish")
        for _ in range(3):
            await client.list(SERVICES)
        assert secured.seen == [("me", "one")] * 4
        complaints = sorted(one.getMessage() for one in caplog.records if one.levelno == logging.ERROR)
        assert len(complaints) == 3, complaints
        assert "client-key" in complaints[0]
        assert "TLS certificate, key or authority cannot be used: " in complaints[1]
        assert "token: No such file or directory; the last good one stays in use" in complaints[2]
        Authority(secured.directory)  # another one of the same name
        secured.rotate_client("me")
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await client.list(SERVICES)


async def test_a_server_under_another_name_is_a_stranger_unless_the_name_is_expected(secured: Secured) -> None:
    secured.serve_as("kubernetes.default.svc")
    async with secured.client() as client:
        with pytest.raises(Unavailable, match=r"(?i)ip address mismatch"):
            await client.list(SERVICES)
    async with secured.client(**{"tls-server-name": "kubernetes.default.svc"}) as client:
        await client.list(SERVICES)


@pytest.mark.parametrize(("status", "complaint"), [(200, "something else"), (302, "a redirect")])
async def test_a_proxy_in_the_way_is_told_and_not_followed(status: int, complaint: str) -> None:
    async def login(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>", headers={"Location": "/login"})

    app = web.Application()
    app.router.add_get("/{path:.*}", login)
    async with TestServer(app) as server, KubeClient(str(server.make_url("/"))) as client:
        with pytest.raises(Unavailable, match=complaint):
            await client.list(SERVICES)


async def test_a_proxy_of_the_kubeconfig_is_used(tmp_path: Path) -> None:
    asked: list[str] = []

    async def forward(request: web.Request) -> web.Response:
        asked.append(str(request.url))
        return web.Response(text=LIST)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    async with TestServer(app) as proxy:
        cluster = {"server": "http://api.invalid", "proxy-url": str(proxy.make_url(""))}
        access = find_access(SystemClock(), kubeconfig=str(write(tmp_path / "config", cluster)))
        assert access is not None
        async with KubeClient(access) as client:
            await client.list(SERVICES)
    assert asked == ["http://api.invalid/api/v1/services?limit=500"]
