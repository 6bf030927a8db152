"""`kubeproxy status --services` in ipvs mode: what the kernel's load balancer counts, by the whole program."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_bed import Machine, serve_web, two_machines
from tests.connections_bed import (
    CLUSTER_IP,
    connections_are_counted,
    port_of,
    rates_are_shown,
    watching_ends_cleanly,
)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with two_machines(tmp_path) as both:
        both[0].agent("--mode=ipvs", "--cluster-cidr=10.244.0.0/16")
        serve_web(both[0])
        yield both


@pytest.mark.timeout(240)
def test_connections_are_counted(machines: tuple[Machine, Machine]) -> None:
    node, peer = machines
    # Somebody else's virtual server is told apart.
    made = node.run("ipvsadm", "-A", "-t", "192.0.2.9:99", "-s", "wlc")
    assert made.returncode == 0, made.stderr
    connections_are_counted(node, peer)
    shown = node.run("kubeproxy", "status", "--services").stdout
    ours, foreign = shown.split("virtual servers that are not kubeproxy's")
    assert "192.0.2.9:99" not in ours
    assert "192.0.2.9:99/TCP wlc" in foreign
    server = port_of(node)["servers"][0]
    assert (server["address"], server["scheduler"]) == (f"{CLUSTER_IP}:80", "rr")
    assert [each["weight"] for each in server["destinations"] if not each["draining"]] == [1]
    rates_are_shown(node)
    watching_ends_cleanly(node)
