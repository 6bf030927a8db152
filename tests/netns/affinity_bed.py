"""Hundreds of clients outside, and who answers each of them at a node port."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kubeproxy.kernel.exec import SystemExec
from tests.netns.iptables_bed import NODE_PORT
from tests.scenarios.addresses import HOSTS, NODE
from tests.scenarios.lab import Lab, lab

CLIENTS = [f"10.99.{i >> 8}.{i & 255}" for i in range(1, 401)]
"""More than xt_recent would keep: 100 an endpoint."""


@contextmanager
def lab_with_clients() -> Iterator[Lab]:
    """A lab whose outside has an address for each client."""
    with lab() as built:
        lines = "".join(f"addr add {client}/32 dev lo\n" for client in CLIENTS)
        back = f"route add 10.99.0.0/16 via {HOSTS['outside'].v4}\n"
        built.run("outside", lambda: SystemExec().run(["ip", "-batch", "-"], stdin=lines))
        built.run("node", lambda: SystemExec().run(["ip", "-batch", "-"], stdin=back))
        yield built


def answers(lab: Lab, clients: Sequence[str], seconds: float) -> list[str]:
    """Return who answers each client, each within so many seconds."""

    def ask() -> list[str]:
        found = []
        for client in clients:
            with socket.socket() as connection:
                connection.settimeout(seconds)
                connection.bind((client, 0))
                connection.connect((NODE.v4, NODE_PORT))
                connection.send(b"?")
                found.append(connection.recv(200).decode().split()[1])
        return found

    return lab.run("outside", ask)
