"""The real `clusterdns` process, asked by the real `dig` on loopback, fed by a small API server in this process.

Nothing leaves the machine: the upstream is a dnslib zone on another loopback port.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from dnslib import RR, DNSRecord

from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]

COREFILE = """
(common) {
    errors
    reload 2s 1s
}
.:DNS {
    bind 127.0.0.1
    import common
    health 127.0.0.1:HEALTH
    ready 127.0.0.1:READY
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        endpoint http://127.0.0.1:API
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus 127.0.0.1:METRICS
    forward . 127.0.0.1:UPSTREAM
    cache 30
    loop
    loadbalance
}
"""


class FakeApi:
    """List and watch of three collections, enough for informers."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            "services": {},
            "endpointslices": {},
            "namespaces": {},
        }
        self.revision = 1
        self.watchers: list[tuple[str, asyncio.Queue[bytes]]] = []
        self.runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        app = web.Application()
        app.router.add_get("/api/v1/{plural}", self._serve)
        app.router.add_get("/apis/discovery.k8s.io/v1/{plural}", self._serve)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    def put(self, plural: str, body: dict[str, Any], kind: str = "MODIFIED") -> None:
        self.revision += 1
        body["metadata"]["resourceVersion"] = str(self.revision)
        key = f"{body['metadata'].get('namespace', '')}/{body['metadata']['name']}"
        if kind == "DELETED":
            del self.objects[plural][key]
        else:
            self.objects[plural][key] = body
        line = json.dumps({"type": kind, "object": body}).encode() + b"\n"
        for watched, queue in self.watchers:
            if watched == plural:
                queue.put_nowait(line)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        plural = request.match_info["plural"]
        if request.query.get("watch") not in ("1", "true"):
            items = list(self.objects[plural].values())
            return web.json_response({"metadata": {"resourceVersion": str(self.revision)}, "items": items})
        if request.query["resourceVersion"] != str(self.revision):
            return web.json_response({"kind": "Status", "code": 410, "reason": "Expired"}, status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.watchers.append((plural, queue))
        await response.prepare(request)
        try:
            while True:
                await response.write(await queue.get())
        finally:
            self.watchers.remove((plural, queue))


def cluster_ip(name: str, ip: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    return {"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": ip, "ports": ports, **spec}}


def slice_of(service: str, *addresses: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": service}
    return {
        "metadata": {"namespace": "default", "name": f"{service}-x", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


class Upstream(asyncio.DatagramProtocol):
    """A resolver of the outside: one name, one big name that needs TCP, NXDOMAIN for the rest."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, packet: bytes, stream: bool) -> bytes:
        request = DNSRecord.parse(packet)
        name = str(request.q.qname).lower()
        self.asked.append(name)
        reply = request.reply(aa=0, ra=1)
        if name == "www.example.test.":
            reply.add_answer(*RR.fromZone(f"{name} 300 IN A 198.51.100.7"))
        elif name == "big.example.test." and not stream:
            reply.header.tc = 1
        elif name == "big.example.test.":
            for number in range(60):
                reply.add_answer(*RR.fromZone(f"{name} 300 IN A 198.51.100.{number}"))
        else:
            reply.header.rcode = 3
            reply.add_auth(*RR.fromZone("example.test. 60 IN SOA ns.example.test. root.example.test. 1 2 3 4 60"))
        return bytes(reply.pack())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(self.answer(data, stream=False), addr)  # type: ignore[attr-defined]

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = self.answer(await reader.readexactly(size), stream=True)
        writer.write(len(reply).to_bytes(2, "big") + reply)
        await writer.drain()
        writer.close()


class World:
    """Everything a test needs: the API, the upstream, the resolver process and its ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("DNS", "HEALTH", "READY", "API", "METRICS", "UPSTREAM")}
        self.api = FakeApi()
        self.upstream = Upstream()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def corefile(self) -> Path:
        return self.folder / "Corefile"

    async def start(self) -> None:
        text = COREFILE
        for name, port in self.ports.items():
            text = text.replace(f":{name}", f":{port}")
        self.corefile.write_text(text)
        loop = asyncio.get_running_loop()
        address = ("127.0.0.1", self.ports["UPSTREAM"])
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self.upstream, local_addr=address)
        self.tcp = await asyncio.start_server(self.upstream.over_tcp, *address)
        await self.api.start(self.ports["API"])
        await self.run_resolver()

    async def run_resolver(self, *flags: str) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dns", "-conf", str(self.corefile), *flags,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def end_resolver(self) -> tuple[int, str]:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        output, _ = await asyncio.wait_for(self.process.communicate(), 10)
        assert self.process.returncode is not None
        return self.process.returncode, output.decode()

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self.api.stop()
        self.transport.close()
        self.tcp.close()

    async def dig(self, *args: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "dig", "@127.0.0.1", "-p", str(self.ports["DNS"]), "+tries=1", "+time=3", *args,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        return output.decode()

    async def page(self, port: str, path: str) -> tuple[int, str]:
        try:
            async with (
                ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.ports[port]}{path}") as reply,
            ):
                return reply.status, await reply.text()
        except OSError:
            return 0, ""

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return (await self.page("READY", "/ready"))[0] == 200

        try:
            await eventually(is_ready)
        except TimeoutError:
            pytest.fail(f"not ready; it ended with, and told: {await self.end_resolver()}")

    async def resolves(self, expected: list[str], *args: str) -> None:
        async def is_so() -> bool:
            return sorted((await self.dig("+short", *args)).split()) == sorted(expected)

        await eventually(is_so)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.api.put("namespaces", {"metadata": {"name": "default"}})
    made.api.put("services", cluster_ip("web", "10.96.1.1"))
    made.api.put("endpointslices", slice_of("web", "10.244.1.5"))
    made.api.put("services", cluster_ip("db", "None"))
    made.api.put("endpointslices", slice_of("db", "10.244.1.7", "10.244.2.7"))
    outside = {"type": "ExternalName", "externalName": "www.example.test"}
    made.api.put("services", {"metadata": {"namespace": "default", "name": "outside"}, "spec": outside})
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_dig_gets_every_kind_of_answer(world: World) -> None:
    await world.ready()
    for transport in ("+notcp", "+tcp"):
        assert await world.dig("+short", transport, "web.default.svc.cluster.local") == "10.96.1.1\n"
        both = await world.dig("+short", transport, "db.default.svc.cluster.local")
        assert sorted(both.split()) == ["10.244.1.7", "10.244.2.7"]
        srv = await world.dig("+short", transport, "_http._tcp.web.default.svc.cluster.local", "SRV")
        assert srv == "0 100 80 web.default.svc.cluster.local.\n"
        assert await world.dig("+short", transport, "-x", "10.96.1.1") == "web.default.svc.cluster.local.\n"
        alias = await world.dig("+short", transport, "outside.default.svc.cluster.local")
        assert alias.split() == ["www.example.test.", "198.51.100.7"]
        assert await world.dig("+short", transport, "www.example.test") == "198.51.100.7\n"
    missing = await world.dig("nope.default.svc.cluster.local")
    assert "status: NXDOMAIN" in missing
    assert "hostmaster.cluster.local" in missing
    nodata = await world.dig("web.default.svc.cluster.local", "AAAA")
    assert "status: NOERROR" in nodata
    assert "ANSWER: 0" in nodata
    assert await world.dig("+short", "10-1-2-3.default.pod.cluster.local") == "10.1.2.3\n"


async def test_a_cut_upstream_reply_is_fetched_over_tcp_and_cached(world: World) -> None:
    await world.ready()
    assert len((await world.dig("+short", "big.example.test")).split()) == 60
    asked = len(world.upstream.asked)
    assert len((await world.dig("+short", "big.example.test")).split()) == 60
    assert len(world.upstream.asked) == asked
    assert "flags: qr tc" in await world.dig("+noedns", "+ignore", "big.example.test")


async def test_changes_and_a_lost_api_server(world: World) -> None:
    await world.ready()
    name = "new.default.svc.cluster.local"
    assert "NXDOMAIN" in await world.dig(name)
    world.api.put("services", cluster_ip("new", "10.96.1.9"))
    await world.resolves(["10.96.1.9"], name)
    world.api.put("endpointslices", slice_of("db", "10.244.1.8"))
    await world.resolves(["10.244.1.8"], "db.default.svc.cluster.local")
    await world.api.stop()
    assert await world.dig("+short", name) == "10.96.1.9\n"
    assert (await world.page("HEALTH", "/health"))[0] == 200
    assert (await world.page("READY", "/ready"))[0] == 200
    world.api.put("services", cluster_ip("new", "10.96.1.9"), "DELETED")
    await world.api.start(world.ports["API"])
    await world.resolves([], name)


async def test_not_ready_until_the_cluster_is_known(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.api.stop()
    await world.end_resolver()
    await world.run_resolver()
    try:

        async def is_up() -> bool:
            return (await world.page("HEALTH", "/health"))[0] == 200

        await eventually(is_up)
        assert await world.page("READY", "/ready") == (503, "kubernetes")
        assert "status: SERVFAIL" in await world.dig("web.default.svc.cluster.local")
        assert await world.dig("+short", "www.example.test") == "198.51.100.7\n"
        await world.api.start(world.ports["API"])
        await world.ready()
        assert "status: NXDOMAIN" in await world.dig("web.default.svc.cluster.local")
    finally:
        await world.stop()


async def test_metrics_have_corednss_names(world: World) -> None:
    await world.ready()
    await world.dig("web.default.svc.cluster.local")
    await world.dig("+tcp", "nope.default.svc.cluster.local")
    status, text = await world.page("METRICS", "/metrics")
    assert status == 200
    assert 'coredns_dns_requests_total{family="1",proto="udp"' in text
    assert 'rcode="NXDOMAIN"' in text
    for name in ("coredns_dns_request_duration_seconds_bucket", "coredns_cache_entries", "coredns_build_info"):
        assert name in text


async def test_a_changed_corefile_is_taken_and_a_bad_one_is_not(world: World) -> None:
    await world.ready()
    good = world.corefile.read_text()
    world.corefile.write_text(good.replace("ttl 30", "ttl 31\n florp"))

    async def is_refused() -> bool:
        return "coredns_reload_failed_total 1.0" in (await world.page("METRICS", "/metrics"))[1]

    await eventually(is_refused)
    answer = await world.dig("+noall", "+answer", "web.default.svc.cluster.local")
    assert answer.split()[1:2] == ["30"]
    world.corefile.write_text(good.replace("ttl 30", "ttl 17"))

    async def is_new() -> bool:
        answer = await world.dig("+noall", "+answer", "web.default.svc.cluster.local")
        return answer.split()[1:2] == ["17"]

    await eventually(is_new)
    status, output = await world.end_resolver()
    assert status == 0
    assert "unknown property 'florp'" in output
    assert "Reloading complete" in output


async def test_a_corefile_that_wants_a_taken_port_changes_nothing(world: World) -> None:
    await world.ready()
    good = world.corefile.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = f"prometheus 127.0.0.1:{taken.getsockname()[1]}"
        metrics = f"prometheus 127.0.0.1:{world.ports['METRICS']}"
        world.corefile.write_text(good.replace(metrics, wanted).replace("ttl 30", "ttl 17"))

        async def is_refused() -> bool:
            status, text = await world.page("METRICS", "/metrics")
            return status == 200 and "coredns_reload_failed_total 1.0" in text

        await eventually(is_refused)
    assert (await world.page("READY", "/ready"))[0] == 200
    answer = await world.dig("+noall", "+answer", "web.default.svc.cluster.local")
    assert answer.split()[1:2] == ["30"]
    # The old configuration goes on in full: it notices the next change.
    world.corefile.write_text(good.replace("ttl 30", "ttl 17"))

    async def is_new() -> bool:
        answer = await world.dig("+noall", "+answer", "web.default.svc.cluster.local")
        return answer.split()[1:2] == ["17"]

    await eventually(is_new)


async def test_it_ends_cleanly_and_refuses_a_taken_port(world: World) -> None:
    await world.ready()
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dns", "-conf", str(world.corefile), stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, complaint = await asyncio.wait_for(second.communicate(), 10)
    assert second.returncode == 1
    expected = f"listen udp 127.0.0.1:{world.ports['DNS']}: bind: address already in use\n"
    assert complaint.decode() == expected
    assert (await world.end_resolver())[0] == 0


async def test_odd_packets_get_what_the_table_says(world: World) -> None:
    """reference/dns.md §1.9, live."""
    await world.ready()
    name = "web.default.svc.cluster.local"
    assert "status: NOTIMP" in await world.dig("+opcode=15", name)
    assert "status: BADVERS" in await world.dig("+edns=100", "+noednsneg", name)
    assert "status: REFUSED" in await world.dig("-c", "CH", name)
    assert "10.96.1.1" in await world.dig("+ednsopt=100", name)
    assert "10.96.1.1" in await world.dig("+zflag", name)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", world.ports["DNS"]))
        client.send(b"short")
        client.send(b"\x12\x34\x80\x00" + bytes(8))  # a reply
        client.send(b"\xab\xcd\x01\x00\x00\x01" + bytes(6))  # a header that promises a question
        answer = await asyncio.wait_for(loop.sock_recv(client, 512), 3)
    assert answer == b"\xab\xcd\x81\x01" + bytes(8)


async def test_every_address_of_a_wildcard_answers_from_itself(tmp_path: Path) -> None:
    """dig connects its socket: an answer from another address than the one it asked would not arrive."""
    port = free_port()
    corefile = tmp_path / "Corefile"
    corefile.write_text(f".:{port} {{\n kubernetes cluster.local {{\n  endpoint http://127.0.0.1:1\n }}\n}}\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dns", "-conf", str(corefile), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), 10)  # the first line: what is served
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            for transport in ("+notcp", "+tcp"):
                dig = await asyncio.create_subprocess_exec(
                    "dig", f"@{address}", "-p", str(port), "+short", "+tries=1", "+time=2", transport,
                    "dns-version.cluster.local", "TXT", stdout=asyncio.subprocess.PIPE,
                )  # fmt: skip
                output, _ = await dig.communicate()
                assert output == b'"1.1.0"\n', (address, transport)
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_the_real_api_server_and_kubectl(tmp_path: Path) -> None:
    """Nothing of ours is faked: kubectl writes, the project's API server keeps, clusterdns answers."""
    world = World(tmp_path)
    await world.start()
    await world.api.stop()
    url = f"http://127.0.0.1:{world.ports['API']}"
    apiserver = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubeproxy", "apiserver", "--store", f"sqlite:{tmp_path}/store.db",
        "--port", str(world.ports["API"]),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await world.ready()
        kubectl = str(Path(sys.executable).with_name("kubectl"))

        async def run(*args: str) -> None:
            process = await asyncio.create_subprocess_exec(
                kubectl, "-s", url, *args, stdout=asyncio.subprocess.DEVNULL
            )
            assert await process.wait() == 0, args

        await run("create", "service", "clusterip", "web", "--clusterip=10.96.7.7", "--tcp=80:8080")
        await world.resolves(["10.96.7.7"], "web.default.svc.cluster.local")
        await world.resolves(["web.default.svc.cluster.local."], "-x", "10.96.7.7")
        await run("create", "service", "externalname", "out", "--external-name=www.example.test", "--tcp=80")
        await world.resolves(["www.example.test.", "198.51.100.7"], "out.default.svc.cluster.local")
        await run("delete", "service", "web")
        await world.resolves([], "web.default.svc.cluster.local")
        assert "NXDOMAIN" in await world.dig("web.default.svc.cluster.local")
    finally:
        apiserver.terminate()
        await apiserver.wait()
        await world.stop()
