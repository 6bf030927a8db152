"""IPVS in the kernel: what it answers is what the model (`kernel/fake_ipvs.py`) says that it answers."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kubeproxy.kernel.fake_ipvs import FakeVirtualServers
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.ipvs_overview import Outline
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb, mark_key
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


REFUSED = """
import logging
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.model.addresses import Family
warnings = []
logging.getLogger().addHandler(handler := logging.Handler())
handler.emit = warnings.append
ipvs = Ipvs()
ipvs.overview(Family.V4)
print(ipvs.overview(Family.V4), len(warnings))
"""


def without(capability: str, script: str) -> str:
    """Run a script that lacks a capability; return what it prints."""
    argv = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", sys.executable, "-c", script]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_servers_are_counted_for_who_may_open_no_raw_sockets(namespace: LoneNamespace) -> None:
    assert namespace.run(lambda: without("net_raw", COUNT_ONE)).split() == ["0", "1"]


def test_an_overview_tells_how_many_destinations_each_of_ten_thousand_has(namespace: LoneNamespace) -> None:
    ipvs = Ipvs()
    servers = [Server(ServerKey(Protocol.TCP, f"10.96.{i >> 8}.{i & 255}", 80)) for i in range(SERVERS)]
    servers += [Server(mark_key(family, 0x6B000001)) for family in Family]
    places = [Destination("10.244.0.1", 8080 + number) for number in range(3)]
    made = [
        Command(Verb.ADD_SERVER, server, places=tuple(places[: i % 4])) for i, server in enumerate(servers[:-1])
    ]
    assert set(namespace.run(lambda: ipvs.run([*made, Command(Verb.ADD_SERVER, servers[-1])]))) == {0}
    before = namespace.run(lambda: ipvs.overview(Family.V4))
    assert before is not None
    expected = {each.server.key: Outline(each.server, len(each.places)) for each in made}
    assert before.outlines() == expected
    assert namespace.run(lambda: ipvs.overview(Family.V4)) == before
    assert namespace.run(lambda: ipvs.overview(Family.V6)) is None
    fewer, more = servers[5].key, servers[8].key
    edits = [
        Command(Verb.DELETE_DESTINATION, Server(fewer), places[0]),
        Command(Verb.ADD_DESTINATION, Server(more), places[0]),
    ]
    assert namespace.run(lambda: ipvs.run(edits)) == [0, 0]
    after = namespace.run(lambda: ipvs.overview(Family.V4))
    assert after is not None
    assert after.differing(before) == {fewer, more}
    assert {key: each.destinations for key, each in after.of((fewer, more)).items()} == {fewer: 0, more: 1}


def test_who_may_not_administer_the_network_gets_no_overview(namespace: LoneNamespace) -> None:
    assert namespace.run(lambda: without("net_admin", REFUSED)).split() == ["None", "1"]


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
