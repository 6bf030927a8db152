"""Two API servers on one etcd, neither with a state of its own: kubectl goes from one to the other and back."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kubeproxy.store.base import Range, prefix_end
from kubeproxy.store.etcd import EtcdStore
from tests.apiserver_bed import service, shown
from tests.etcd_bed import etcd_process
from tests.kubectl import kubectl_binary
from tests.kubectl_bed import Cluster

pytestmark = pytest.mark.e2e

SERVICES = "/api/v1/namespaces/default/services"
RANGES = ("--service-cluster-ip-range=10.96.0.0/24", "--service-node-port-range=30000-30150")


class Pair:
    """Server `a` and server `b` on the etcd at ``store``."""

    def __init__(self, store: str, directory: Path) -> None:
        self.store = store
        self.a = self._server(directory, 2, 0)
        self.b = self._server(directory, 3, self.a.port)

    def _server(self, directory: Path, number: int, port: int) -> Cluster:
        folder = directory / str(number)
        folder.mkdir()
        reach = f"--advertise-address=192.168.56.{number}"
        return Cluster(folder, self.store, f"127.0.0.{number}", port, reach, *RANGES)

    async def claimed(self) -> set[str]:
        prefix = b"/registry/ranges/"
        async with EtcdStore([self.store]) as store:
            found = await store.range(Range(key=prefix, range_end=prefix_end(prefix), keys_only=True))
        return {kv.key.rpartition(b"/")[2].decode() for kv in found.kvs}

    def services(self) -> list[dict[str, Any]]:
        return list(json.loads(self.b.kubectl("get", "svc", "-A", "-o", "json"))["items"])

    def clear(self) -> None:
        """Delete what `post` made."""
        self.b.kubectl("delete", "--raw", f"{SERVICES}?labelSelector=made%3Dhere")

    def masters(self, server: Cluster) -> str:
        path = "jsonpath={.subsets[0].addresses[*].ip}"
        return server.kubectl("get", "endpoints", "kubernetes", "-n", "default", "-o", path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with etcd_process() as url:
        pair = Pair(url, tmp_path_factory.mktemp("pair"))
        try:
            for each in (pair.a, pair.b):
                each.start()
            yield pair
        finally:
            for each in (pair.a, pair.b):
                if each.process is not None and each.process.poll() is None:
                    each.stop()
        assert "Traceback" not in pair.a.log() + pair.b.log()


async def post(pair: Pair, objects: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Create all at once, half on each server; a server that is gone answers 0."""

    async def one(client: aiohttp.ClientSession, url: str, obj: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        obj["metadata"]["labels"] = {"made": "here"}
        try:
            async with client.post(url + SERVICES, json=obj) as answer:
                return answer.status, await answer.json()
        except aiohttp.ClientError:
            return 0, {}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        urls = (pair.a.url, pair.b.url)
        return list(await asyncio.gather(*(one(client, urls[i % 2], obj) for i, obj in enumerate(objects))))


def version(server: Cluster, name: str) -> str:
    return server.kubectl("get", name, "-o", "jsonpath={.metadata.resourceVersion}")


def test_what_one_writes_the_other_shows(pair: Pair) -> None:
    pair.a.kubectl("create", "service", "clusterip", "s", "--tcp=80")
    assert version(pair.a, "svc/s") == version(pair.b, "svc/s")
    pair.b.kubectl("patch", "svc", "s", "-p", '{"spec":{"selector":{"x":"y"}}}')
    assert version(pair.a, "svc/s") == version(pair.b, "svc/s")
    assert pair.a.kubectl("get", "svc", "s", "-o", "jsonpath={.spec.selector.x}") == "y"
    assert "already exists" in pair.b.refused("create", "service", "clusterip", "s", "--tcp=80")
    pair.a.kubectl("delete", "svc", "s")
    assert "NotFound" in pair.b.refused("get", "svc", "s")


def test_a_watch_on_one_sees_what_the_other_writes(pair: Pair) -> None:
    words = [kubectl_binary(), "-s", pair.a.url, "get", "cm", "w", "-w", "-o", "jsonpath={.data.n}{'\\n'}"]
    pair.b.kubectl("create", "cm", "w", "--from-literal=n=0")
    watch = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=pair.a.environment)
    assert watch.stdout is not None
    try:
        assert watch.stdout.readline() == "0\n"
        for number in range(1, 4):
            pair.b.kubectl("patch", "cm", "w", "-p", json.dumps({"data": {"n": str(number)}}))
            assert watch.stdout.readline() == f"{number}\n"
    finally:
        watch.kill()
        watch.wait()
    pair.b.kubectl("delete", "cm", "w")


def test_of_two_writers_on_one_revision_the_second_is_told(pair: Pair) -> None:
    pair.a.kubectl("create", "cm", "c", "--from-literal=n=0")
    read = pair.b.kubectl("get", "cm", "c", "-o", "json")
    pair.a.kubectl("replace", "-f", "-", text=read.replace('"n": "0"', '"n": "1"'))
    told = pair.b.refused("replace", "-f", "-", text=read.replace('"n": "0"', '"n": "2"'))
    assert "the object has been modified; please apply your changes to the latest version" in told
    assert pair.b.kubectl("get", "cm", "c", "-o", "jsonpath={.data.n}") == "1"


def test_apply_changes_the_type_wherever_it_is_sent(pair: Pair) -> None:
    """The next manifest goes to the other server; what the type before needed is released."""
    kinds = ("NodePort", "LoadBalancer", "ClusterIP", "ExternalName", "LoadBalancer", "NodePort", "ClusterIP")
    for number, kind in enumerate(kinds):
        spec = {"type": kind, "ports": [{"port": 80}]}
        if kind == "LoadBalancer":
            spec["externalTrafficPolicy"] = "Local"
        if kind == "ExternalName":
            spec["externalName"] = "a.example.com"
        manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "t"}, "spec": spec}
        (pair.a, pair.b)[number % 2].kubectl("apply", "-f", "-", text=json.dumps(manifest))
        [made] = [obj for obj in pair.services() if obj["metadata"]["name"] == "t"]
        assert made["spec"]["type"] == kind
        assert asyncio.run(pair.claimed()) == shown(*pair.services())
    pair.a.kubectl("delete", "svc", "t")


def test_a_namespace_that_one_deletes_takes_nothing_from_the_other(pair: Pair) -> None:
    pair.b.kubectl("create", "namespace", "gone")
    pair.b.kubectl("create", "cm", "c", "-n", "gone")  # Now b remembers that the namespace stands.
    pair.a.kubectl("delete", "namespace", "gone")
    assert "not found" in pair.b.refused("create", "cm", "d", "-n", "gone")
    assert "not found" in pair.b.refused("create", "cm", "d", "-n", "gone", "--dry-run=server")


def test_a_hundred_creates_at_once_share_nothing(pair: Pair) -> None:
    answers = asyncio.run(post(pair, [service(f"p{i}", type="NodePort") for i in range(100)]))
    assert [code for code, _ in answers] == [201] * 100
    made = [obj for _, obj in answers]
    assert len(shown(*made)) == 200
    assert asyncio.run(pair.claimed()) == shown(*pair.services())
    pair.clear()
    assert asyncio.run(pair.claimed()) == {"10.96.0.1"}


def test_more_addresses_come_and_go_on_both(pair: Pair) -> None:
    cidr = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "extra"},
        "spec": {"cidrs": ["10.9.0.0/28"]},
    }
    pair.a.kubectl("create", "-f", "-", text=json.dumps(cidr))
    assert "10.9.0.0/28" in pair.b.kubectl("get", "servicecidrs")
    pair.b.kubectl("create", "service", "clusterip", "far", "--tcp=80", "--clusterip=10.9.0.9")
    pair.a.kubectl("delete", "servicecidr", "extra", "--wait=false")
    reason = "jsonpath={.status.conditions[0].reason}"
    pair.b.until(lambda: pair.b.kubectl("get", "servicecidr", "extra", "-o", reason) == "Terminating")
    pair.b.kubectl("delete", "svc", "far")
    pair.a.kubectl("wait", "--for=delete", "servicecidr/extra", "--timeout=30s")


def test_both_are_endpoints_and_one_that_is_killed_leaves_nothing_half_done(pair: Pair) -> None:
    assert pair.masters(pair.b) == "192.168.56.2 192.168.56.3"

    async def killed_in_the_middle() -> list[tuple[int, dict[str, Any]]]:
        creates = asyncio.create_task(post(pair, [service(f"k{i}", type="NodePort") for i in range(120)]))
        async with asyncio.timeout(20):
            while len(await pair.claimed()) < 10:
                await asyncio.sleep(0.01)
        assert pair.a.process is not None
        pair.a.process.kill()
        return await creates

    answers = asyncio.run(killed_in_the_middle())
    acknowledged = {obj["metadata"]["name"] for code, obj in answers if code == 201}
    stored = {obj["metadata"]["name"] for obj in pair.services()}
    assert acknowledged <= stored
    assert {code for code, _ in answers} <= {0, 201}
    assert asyncio.run(pair.claimed()) == shown(*pair.services())
    pair.a.stop(signal.SIGKILL)
    pair.clear()
    pair.a.start()
    assert version(pair.a, "svc/kubernetes") == version(pair.b, "svc/kubernetes")
    assert pair.masters(pair.a) == "192.168.56.2 192.168.56.3"
    assert pair.a.stop() == 0
    assert pair.masters(pair.b) == "192.168.56.3"
    pair.a.start()
