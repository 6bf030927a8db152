"""The server's door with real TLS: certificates made, reused, renewed; credentials, refusals, kubectl's auth."""

import asyncio
import os
import ssl
import sys
import time
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import msgspec
import pytest

from kubeproxy.apiserver import credentials
from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.certificates import issue_serving, make_ca
from kubeproxy.apiserver.pki import Pki, write_private
from kubeproxy.apiserver.protection import RELOAD_SECONDS, Protection
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from tests.apiserver_bed import CONFIG_MAPS, SERVICES, service
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.unit

RANGES = Ranges(networks=(ip_network("10.96.0.0/12"),))
NODE_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
YEAR = 365 * 86400


class SteppedClock(SystemClock):
    """The machine's clock, with a wall that a test may move and sleeps that it may cut short."""

    def __init__(self, ahead=0.0):
        self.ahead = ahead
        self.wake = asyncio.Event()

    def wall(self):
        return time.time() + self.ahead

    async def sleep(self, seconds):
        if seconds == RELOAD_SECONDS:
            await self.wake.wait()
            self.wake.clear()
        else:
            await super().sleep(seconds)


class Server:
    def __init__(self, url, directory, clock):
        self.url, self.pki, self.clock = url, Pki(directory / "pki"), clock

    def tls(self, user="", groups=()):
        """A client's TLS context that trusts the server's CA, with a client certificate for a user."""
        context = ssl.create_default_context(cafile=self.pki.ca_file)
        if user:
            pair = self.pki.client(user, groups, self.clock.wall())
            path = self.pki.ca_file.with_name("client.pem")
            write_private(path, pair.certificate + pair.key)
            context.load_cert_chain(path)
        return context

    async def ask(self, path, tls=None, method="GET", body=None, **headers):
        async with aiohttp.ClientSession() as session:
            data = msgspec.json.encode(body) if body is not None else None
            headers = {"Content-Type": "application/json", **headers}
            url = self.url + path
            async with session.request(method, url, ssl=tls or self.tls(), data=data, headers=headers) as answer:
                raw = await answer.read()
                return answer.status, raw.decode() if path.endswith("z") else msgspec.json.decode(raw)

    async def serial(self):
        host, port = self.url.removeprefix("https://").rsplit(":", 1)
        _, writer = await asyncio.open_connection(host, int(port), ssl=self.tls())
        found = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return found


@asynccontextmanager
async def secure(directory, clock=None, **protection):
    clock = clock or SteppedClock()
    wanted = Protection(tls=True, cert_dir=str(directory / "pki"), **protection)
    settings = Settings(
        store="sqlite::memory:",
        ranges=RANGES,
        port=0,
        protection=wanted,
        write_kubeconfig=str(directory / "admin.conf"),
    )
    async with running(settings, clock) as url:
        yield Server(url, directory, clock)


async def program(*argv, stdin=b"", **environment):
    """Run a real program; return its status and its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PATH": path, **environment},
    )
    out, _ = await process.communicate(stdin)
    return process.returncode, out.decode()


async def test_anonymous_gets_health_and_nothing_else(tmp_path):
    async with secure(tmp_path) as server:
        for path in ("/healthz", "/livez", "/readyz"):
            assert await server.ask(path) == (200, "ok")
        code, told = await server.ask(SERVICES)
        assert (code, told["reason"], told["message"]) == (
            403,
            "Forbidden",
            'services is forbidden: User "system:anonymous" cannot list resource "services" in API group "" '
            'in the namespace "default"',
        )
        for path in ("/version", "/api", "/metrics", "/apis/apps/v1/nothing"):
            assert (await server.ask(path))[0] == 403


async def test_without_anonymous_everybody_must_show_something(tmp_path):
    async with secure(tmp_path, anonymous=False) as server:
        code, told = await server.ask("/api")
        assert (code, told["reason"], told["message"]) == (401, "Unauthorized", "Unauthorized")


async def test_client_certificates_say_who(tmp_path, caplog):
    async with secure(tmp_path) as server:
        admin = server.tls("root", ["system:masters"])
        assert (await server.ask(SERVICES, admin, "POST", service("a")))[0] == 201
        for header in ("User", "Group", "Uid", "Extra-a"):
            assert (await server.ask(SERVICES, admin, **{f"Impersonate-{header}": "x"}))[0] == 403
        viewer = server.tls("alice", ["view"])
        assert (await server.ask(f"{SERVICES}/a", viewer))[0] == 200
        code, told = await server.ask(f"{SERVICES}/a", viewer, "DELETE")
        assert (code, told["details"]) == (403, {"name": "a", "kind": "services"})
        stranger = make_ca("stranger", time.time())
        foreign = server.tls()
        write_private(tmp_path / "f.pem", stranger.certificate + stranger.key)
        foreign.load_cert_chain(tmp_path / "f.pem")
        with pytest.raises(aiohttp.ClientError):
            await server.ask("/healthz", foreign)
        refused = [record for record in caplog.records if "403" in record.getMessage()]
        assert len(refused) == 1


async def test_a_certificate_that_has_ended_counts_no_more_on_a_connection_that_stands(tmp_path):
    async with secure(tmp_path) as server:
        admin = server.tls("root", ["system:masters"])
        assert (await server.ask(SERVICES, admin))[0] == 200
        server.clock.ahead = 2 * 365 * 86400
        assert (await server.ask(SERVICES, admin))[0] == 401


async def test_a_nodes_agent_writes_its_own_and_nobody_elses(tmp_path):
    async with secure(tmp_path) as server:
        admin, node = server.tls("root", ["system:masters"]), server.tls("system:node:n1", ["system:nodes"])
        nodes, pods = "/api/v1/nodes", "/api/v1/namespaces/default/pods"
        for name, code in (("n1", 201), ("n2", 403)):
            assert (await server.ask(nodes, node, "POST", {"metadata": {"name": name}}))[0] == code
            lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name}}
            assert (await server.ask(NODE_LEASES, node, "POST", lease))[0] == code
            spec = {"nodeName": name, "containers": [{"name": "c", "image": "i"}]}
            assert (await server.ask(pods, admin, "POST", {"metadata": {"name": name}, "spec": spec}))[0] == 201
        merge = {"Content-Type": "application/merge-patch+json"}
        ready = {
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            "metadata": {"labels": {"a": "b"}},
        }
        for name, code in (("n1", 200), ("n2", 403), ("none", 404)):
            assert (await server.ask(f"{pods}/{name}/status", node, "PATCH", ready, **merge))[0] == code
        _, pod = await server.ask(f"{pods}/n1", node)
        assert "labels" not in pod["metadata"], "by labels it would choose the Services that send to its pods"
        assert (await server.ask(f"{pods}/n2", node, "DELETE"))[0] == 403
        assert (await server.ask(f"{pods}/n1", node, "DELETE"))[0] == 200


async def test_tokens_count_and_are_read_again(tmp_path, caplog):
    tokens = tmp_path / "tokens.csv"
    tokens.write_text("t0ken,alice,1,view\n")
    async with secure(tmp_path, token_file=str(tokens)) as server:

        async def code(token):
            return (await server.ask(SERVICES, Authorization=f"Bearer {token}"))[0]

        assert (await code("t0ken"), await code("wr0ng")) == (200, 401)
        tokens.write_text("t0ken,alice\n")
        server.clock.wake.set()

        async def told():
            return any("tokens stay as they were" in record.getMessage() for record in caplog.records)

        await eventually(told)
        assert await code("t0ken") == 200
        tokens.write_text("other,alice,1,view\n")
        server.clock.wake.set()

        async def changed():
            return await code("other") == 200

        await eventually(changed)
        assert await code("t0ken") == 401
    assert not any("t0ken" in record.getMessage() or "wr0ng" in record.getMessage() for record in caplog.records)


async def test_a_certificate_is_reused_and_renewed_while_it_serves(tmp_path):
    clock = SteppedClock(ahead=-0.85 * YEAR)
    async with secure(tmp_path, clock) as server:
        first = await server.serial()
    async with secure(tmp_path, clock) as server:
        assert await server.serial() == first
        clock.ahead = 0.0
        clock.wake.set()

        async def renewed():
            return await server.serial() != first

        await eventually(renewed)
    for name in ("ca.key", "apiserver.key"):
        assert (tmp_path / "pki" / name).stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "pki").glob(".*"))


async def test_given_certificates_are_followed_and_a_bad_one_is_not_taken(tmp_path, caplog):
    ca = make_ca("ca", time.time())
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki/ca.crt").write_bytes(ca.certificate)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def issue():
        pair = issue_serving(ca, "s", ["127.0.0.1"], time.time())
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)

    issue()
    clock = SteppedClock()
    wanted = Protection(cert_file=str(certificate), key_file=str(key), tls=True)
    settings = Settings(store="sqlite::memory:", ranges=RANGES, port=0, protection=wanted)
    async with running(settings, clock) as url:
        server = Server(url, tmp_path, clock)
        first = await server.serial()
        key.write_text("no key")
        clock.wake.set()

        async def told():
            return any("stay as they were" in record.getMessage() for record in caplog.records)

        await eventually(told)
        assert await server.serial() == first
        issue()
        clock.wake.set()

        async def changed():
            return await server.serial() != first

        await eventually(changed)


async def test_kubectl_asks_what_it_may_do(tmp_path):
    async with secure(tmp_path) as server:
        admin = str(tmp_path / "admin.conf")
        assert (tmp_path / "admin.conf").stat().st_mode & 0o777 == 0o600
        code, out = await program("kubectl", "auth", "whoami", "-o", "name", KUBECONFIG=admin)
        assert code == 0, out
        code, out = await program("kubectl", "auth", "can-i", "*", "*", KUBECONFIG=admin)
        assert (code, out) == (0, "yes\n")
        manifest = msgspec.json.encode({"apiVersion": "v1", "kind": "Service", **service("a")})
        code, out = await program("kubectl", "apply", "-f", "-", stdin=manifest, KUBECONFIG=admin)
        assert code == 0, out
        issued = credentials.kubeconfig(server.pki, server.url, "alice", ["view"], time.time(), cluster="k")
        view = tmp_path / "view.conf"
        view.write_bytes(issued)
        code, out = await program("kubectl", "get", "services", "-o", "name", KUBECONFIG=str(view))
        assert (code, out.split()) == (0, ["service/a", "service/kubernetes"])
        code, out = await program("kubectl", "auth", "can-i", "delete", "services", KUBECONFIG=str(view))
        assert (code, out.splitlines()[0].split(" ")[0]) == (1, "no"), out
        code, out = await program("kubectl", "auth", "can-i", "--list", KUBECONFIG=str(view))
        assert code == 0, out
        assert "selfsubjectreviews.authentication.k8s.io" in out
        code, out = await program("kubectl", "auth", "whoami", KUBECONFIG=str(view))
        assert (code, "alice" in out, "[view system:authenticated]" in out) == (0, True, True), out
        code, out = await program("kubectl", "delete", "service", "a", KUBECONFIG=str(view))
        assert (code, out.strip()) == (
            1,
            'Error from server (Forbidden): services "a" is forbidden: User "alice" cannot delete resource '
            '"services" in API group "" in the namespace "default"',
        )
        code, out = await program("kubectl", "get", "svc", "--as", "root", KUBECONFIG=admin)
        assert (code, "cannot impersonate" in out) == (1, True), out


async def test_curl_follows_the_certificate_by_every_name(tmp_path):
    async with secure(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        for name in ("localhost", "kubernetes.default.svc.cluster.local", "10.96.0.1"):
            where = f"{name}:{port}:127.0.0.1"
            argv = ["curl", "-sS", "--cacert", str(server.pki.ca_file), "--resolve", where]
            assert await program(*argv, f"https://{name}:{port}/healthz") == (0, "ok")
        code, _ = await program("curl", "-sS", f"https://localhost:{port}/healthz")
        assert code == 60  # an authority that nobody knows
        code, _ = await program("curl", "-sSk", "--tls-max", "1.1", f"https://localhost:{port}/healthz")
        assert code == 35


async def test_what_must_not_be_served_in_plain_is_not(tmp_path):
    for protection, complaint in ((Protection(plain=True), "needs --token-auth-file"),):
        settings = Settings(
            store="sqlite::memory:", ranges=RANGES, bind_address="0.0.0.0", port=0, protection=protection
        )
        with pytest.raises(ValueError, match=complaint):
            async with running(settings, SystemClock()):
                pass


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Host": "localhost:8001"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 200),
    ],
)
async def test_a_browser_on_a_foreign_page_gets_nothing_of_a_plain_port(headers, code):
    gateway = f"http://127.0.0.1:{free_port()}"
    settings = Settings(store="sqlite::memory:", ranges=RANGES, port=0, client_urls=(gateway,))
    async with running(settings, SystemClock()) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}{CONFIG_MAPS}", headers=headers) as answer:
            assert answer.status == code
        # The whole store, by a request that a page may send without asking: no JSON type, no method but POST.
        simple = {"Content-Type": "text/plain", **headers}
        for path, body in (("kv/put", b'{"key":"YQ=="}'), ("watch", b'{"create_request":{"key":"YQ=="}}')):
            async with session.post(f"{gateway}/v3/{path}", data=body, headers=simple) as answer:
                assert answer.status == code
