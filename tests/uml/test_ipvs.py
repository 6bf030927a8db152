"""IPVS in the kernel: what it answers is what the model (`kernel/fake_ipvs.py`) says that it answers."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kubeproxy.kernel.fake_ipvs import FakeVirtualServers
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.uml.ipvs_histories import differences, settings

SERVERS = 10_000


@pytest.fixture
def namespace() -> Iterator[LoneNamespace]:
    with lone_namespace() as made:
        made.ip("link set lo up")  # where nothing is up, IPVS takes no destinations
        yield made


def test_schedulers_and_timeouts(namespace: LoneNamespace) -> None:
    assert namespace.run(lambda: settings(Ipvs())) == settings(FakeVirtualServers())


@pytest.mark.parametrize("seeds", [range(start, start + 20) for start in range(0, 60, 20)])
def test_random_histories(namespace: LoneNamespace, seeds: range) -> None:
    real = Ipvs()
    for seed in seeds:
        assert namespace.run(lambda seed=seed: differences(seed, real)) == [], f"history {seed}"


COUNT_ONE = """
import socket
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.ipvs_types import Command, Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
except PermissionError:
    ipvs = Ipvs()
    print(ipvs.count(Family.V4))
    ipvs.run([Command(Verb.ADD_SERVER, Server(ServerKey(Protocol.TCP, "10.96.0.1", 80)))])
    print(ipvs.count(Family.V4))
"""


def test_servers_are_counted_for_who_may_open_no_raw_sockets(namespace: LoneNamespace) -> None:
    argv = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", COUNT_ONE]
    told = namespace.run(lambda: subprocess.run(argv, check=True, capture_output=True, text=True)).stdout
    assert told.split() == ["0", "1"]


def test_ten_thousand_servers_are_written_read_and_changed(namespace: LoneNamespace) -> None:
    ipvs = Ipvs()
    servers = [Server(ServerKey(Protocol.TCP, f"10.96.{i >> 8}.{i & 255}", 80)) for i in range(SERVERS)]
    old, new = Destination("10.244.0.1", 8080), Destination("10.244.0.2", 8080)
    commands = [
        command
        for server in servers
        for command in (Command(Verb.ADD_SERVER, server), Command(Verb.ADD_DESTINATION, server, old))
    ]
    assert set(namespace.run(lambda: ipvs.run(commands))) == {0}
    assert namespace.run(lambda: ipvs.servers(Family.V4)) == {server.key: server for server in servers}
    assert namespace.run(lambda: ipvs.servers(Family.V6)) == {}
    # All refused: more refusals than one send may be answered by, and every one is heard of.
    assert set(namespace.run(lambda: ipvs.run(commands))) == {17}

    def change(server: Server) -> float:
        drained = Destination(old.address, old.port, 0)
        begin = time.perf_counter()
        codes = ipvs.run(
            [
                Command(Verb.ADD_DESTINATION, server, new),
                Command(Verb.SET_DESTINATION, server, drained),
                Command(Verb.DELETE_DESTINATION, server, old),
            ]
        )
        seconds = time.perf_counter() - begin
        assert codes == [0, 0, 0]
        assert [found.destination for found in ipvs.destinations(server.key)] == [new]
        return seconds

    took = namespace.run(lambda: [change(server) for server in servers[-100:]])
    assert statistics.median(took) < 0.005  # 0.12 ms; the rest is for a busy machine
