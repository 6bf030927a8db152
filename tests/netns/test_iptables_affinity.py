"""Affinity beyond what the scenario table asks: many clients, and an agent that is started anew."""

import socket
from collections.abc import Iterator

import pytest

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.iptables_bed import BE1, BE2, BE3, NODE_PORT, VIP, backend_in, programmed, sync
from tests.scenarios.addresses import HOSTS, NODE
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab

pytestmark = pytest.mark.netns

CLIENTS = [f"10.99.{i >> 8}.{i & 255}" for i in range(1, 401)]
"""More than xt_recent would keep: 100 an endpoint."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """One for each flavour: a port that a client used under the other is still tracked, and passes no rule."""
    with build_lab() as built:
        lines = "".join(f"addr add {client}/32 dev lo\n" for client in CLIENTS)
        back = f"route add 10.99.0.0/16 via {HOSTS['outside'].v4}\n"
        built.run("outside", lambda: SystemExec().run(["ip", "-batch", "-"], stdin=lines))
        built.run("node", lambda: SystemExec().run(["ip", "-batch", "-"], stdin=back))
        yield built


def answers(lab: Lab) -> list[str]:
    def ask() -> list[str]:
        found = []
        for client in CLIENTS:
            with socket.socket() as connection:
                connection.settimeout(2)
                connection.bind((client, 0))
                connection.connect((NODE.v4, NODE_PORT))
                connection.send(b"?")
                found.append(connection.recv(200).decode().split()[1])
        return found

    return lab.run("outside", ask)


@pytest.mark.parametrize("flavour", list(Flavour))
def test_hundreds_of_clients_stay_with_their_endpoints(lab: Lab, flavour: Flavour) -> None:
    objects = (
        service("web", VIP, node_port=NODE_PORT, session_affinity=True),
        endpoint_slice("web", "80", [BE1, BE2, BE3]),
    )
    with programmed(lab, objects, flavour):
        first = answers(lab)
        assert set(first) == {HOSTS[name].v4 for name in ("be1", "be2", "be3")}
        assert answers(lab) == first
        sync(lab, backend_in(flavour), world(*objects))
        assert answers(lab) == first
    names = lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout)
    assert names == ""
