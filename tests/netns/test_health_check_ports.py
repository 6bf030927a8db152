"""On which of a node's addresses health check node ports are open: those that node ports answer on."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from kubeproxy.clock import SystemClock
from kubeproxy.health.service_health import ServiceHealth
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.model.addresses import Family
from kubeproxy.model.healthchecks import HealthCheck
from tests.scenarios.addresses import ALT, LOOPBACK, NODE, OWN
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab
from tests.waiting import eventually, until

pytestmark = pytest.mark.netns

PORT = 31000
WEB = ("default", "web")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with build_lab() as built:
        yield built


def answering() -> set[str]:
    """Return the node's addresses that accept on the port; to be called in its namespace."""
    found = set()
    for address in OWN[Family.V4] | OWN[Family.V6]:
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

    async def is_settled() -> bool:
        return bool(servers._open) or servers.silent > 0

    try:
        await eventually(is_settled)
        return await asyncio.to_thread(look, servers)
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("family", "cidrs", "expected"),
    [
        (Family.V4, (), OWN[Family.V4]),
        (Family.V6, (), OWN[Family.V6]),
        (Family.V4, (f"{NODE.v4}/32",), {NODE.v4}),  # what `primary` becomes
        (Family.V6, (f"{NODE.v6}/128",), {NODE.v6}),
        (Family.V4, ("192.168.57.0/24",), {ALT.v4}),
        (Family.V4, ("192.168.56.0/23", "127.0.0.0/8"), {NODE.v4, ALT.v4, LOOPBACK.v4}),
        (Family.V4, ("203.0.113.0/24",), set()),
        (Family.V4, ("203.0.113.7/32",), set()),
        (Family.V6, ("2001:db8:56::/64",), {NODE.v6}),
    ],
)
def test_where_it_listens(lab: Lab, family: Family, cidrs: tuple[str, ...], expected: set[str]) -> None:
    troubled: list[str] = []

    def look(servers: ServiceHealth) -> set[str]:
        troubled.extend(check.trouble for check in servers.status() if check.trouble)
        # A new thread of a process that has many namespaces begins in that of the thread which made it.
        return answering()

    assert lab.run("node", lambda: asyncio.run(serving(family, cidrs, look))) == expected
    assert bool(troubled) is (not expected)


def test_both_families_have_the_port_side_by_side(lab: Lab) -> None:
    async def both() -> set[str]:
        inner: set[str] = await asyncio.wait_for(
            serving(Family.V4, (), lambda _: asyncio.run(serving(Family.V6, (), lambda _: answering()))), 10
        )
        return inner

    assert lab.run("node", lambda: asyncio.run(both())) == OWN[Family.V4] | OWN[Family.V6]


def test_an_address_that_comes_later_is_listened_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeproxy.health.service_health.RETRY_SECONDS", 0.05)
    inside = ["ip", "-n", lab.name("node"), "addr"]

    def is_open() -> bool:
        with socket.socket() as client:
            client.settimeout(0.05)
            return client.connect_ex(("10.99.0.1", PORT)) == 0

    def look(_: ServiceHealth) -> set[str]:
        SystemExec().run([*inside, "add", "10.99.0.1/32", "dev", "lo"])
        until(is_open, "the address is listened on")
        SystemExec().run([*inside, "del", "10.99.0.1/32", "dev", "lo"])
        until(lambda: not is_open(), "it is let go of")
        return set()

    lab.run("node", lambda: asyncio.run(serving(Family.V4, ("10.99.0.0/24",), look)))
