"""On which of a node's addresses health check node ports are open: those that node ports answer on."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from kubeproxy.clock import SystemClock
from kubeproxy.health.service_health import ServiceHealth
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.model.addresses import Family
from kubeproxy.model.healthchecks import HealthCheck
from tests.netns.packet_lab import ALT_NODE_IP, NODE_IP, PacketLab, packet_lab

pytestmark = pytest.mark.netns

PORT = 31000
V6_IP = "fd00:56::11"
V4_ALL, V6_ALL = {NODE_IP, ALT_NODE_IP, "127.0.0.1", "10.244.0.1"}, {V6_IP, "::1"}
WEB = ("default", "web")


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with packet_lab() as built:
        SystemExec().run(["ip", "-n", built.name("node"), "addr", "add", f"{V6_IP}/64", "dev", "eth0", "nodad"])
        yield built


def answering() -> set[str]:
    """Return the node's addresses that accept on the port; to be called in its namespace."""
    found = set()
    for address in V4_ALL | V6_ALL:
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(kind) as client:
            client.settimeout(1)
            if client.connect_ex((address, PORT)) == 0:
                found.add(address)
    return found


async def serving(family: Family, cidrs: tuple[str, ...], look: Callable[[ServiceHealth], set[str]]) -> set[str]:
    servers = ServiceHealth(family, SystemClock(), lambda: True, lambda *trouble: None)
    task = asyncio.create_task(servers.run())
    servers.take({WEB: HealthCheck(port=PORT, endpoints=1)}, cidrs, full=True)
    await asyncio.sleep(0.05)
    try:
        return await asyncio.to_thread(look, servers)
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("family", "cidrs", "expected"),
    [
        (Family.V4, (), V4_ALL),
        (Family.V6, (), V6_ALL),
        (Family.V4, (f"{NODE_IP}/32",), {NODE_IP}),  # what `primary` becomes
        (Family.V6, (f"{V6_IP}/128",), {V6_IP}),
        (Family.V4, ("192.168.57.0/24",), {ALT_NODE_IP}),
        (Family.V4, ("192.168.0.0/16", "127.0.0.0/8"), {NODE_IP, ALT_NODE_IP, "127.0.0.1"}),
        (Family.V4, ("203.0.113.0/24",), set()),
        (Family.V4, ("203.0.113.7/32",), set()),
        (Family.V6, ("fd00:56::/64",), {V6_IP}),
    ],
)
def test_where_it_listens(lab: PacketLab, family: Family, cidrs: tuple[str, ...], expected: set[str]) -> None:
    troubled: list[str] = []

    def look(servers: ServiceHealth) -> set[str]:
        troubled.extend(check.trouble for check in servers.status() if check.trouble)
        # A new thread of a process that has many namespaces begins in that of the thread which made it.
        return answering()

    assert lab.run("node", lambda: asyncio.run(serving(family, cidrs, look))) == expected
    assert bool(troubled) is (not expected)


def test_both_families_have_the_port_side_by_side(lab: PacketLab) -> None:
    async def both() -> set[str]:
        inner: set[str] = await asyncio.wait_for(
            serving(Family.V4, (), lambda _: asyncio.run(serving(Family.V6, (), lambda _: answering()))), 10
        )
        return inner

    assert lab.run("node", lambda: asyncio.run(both())) == V4_ALL | V6_ALL


def test_an_address_that_comes_later_is_listened_on(lab: PacketLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeproxy.health.service_health.RETRY_SECONDS", 0.05)
    inside = ["ip", "-n", lab.name("node"), "addr"]

    def look(_: ServiceHealth) -> set[str]:
        found = set()
        for verb in ("add", "del"):
            SystemExec().run([*inside, verb, "10.99.0.1/32", "dev", "lo"])
            for _ in range(100):
                with socket.socket() as client:
                    client.settimeout(0.05)
                    if (client.connect_ex(("10.99.0.1", PORT)) == 0) is (verb == "add"):
                        found.add(verb)
                        break
                time.sleep(0.02)
        return found

    assert lab.run("node", lambda: asyncio.run(serving(Family.V4, ("10.99.0.0/24",), look))) == {"add", "del"}
