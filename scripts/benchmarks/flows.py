"""How long it takes to end N UDP flows to an endpoint that is gone, beside `conntrack -D` of the same entries.

`scripts/bench --only flows` runs it. Per size a network namespace of its own: N flows of one Service and as many
of nobody's, made by real packets on the loopback interface; then one reconciliation as after a sync (read the
table, judge every flow, delete the stale), and once more with the program that people use for it by hand.
"""

import json
import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

from namespace import run_inside

from kubeproxy.clock import SystemClock
from kubeproxy.kernel.conntrack import KernelConntrack
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import node_state
from kubeproxy.model.settings import Settings
from kubeproxy.sync.flows import FlowReconciler
from kubeproxy.testing.build import endpoint_slice, service, world

SETTINGS = Settings(node_name="node1")
SERVICE, NOBODY = "10.96.0.10", "10.96.0.11"
PORTS = range(1024, 65000)
ROUNDS = 3


def make_flows(count: int) -> None:
    for number in range(count):
        source = f"127.2.{number // len(PORTS)}.1", PORTS[number % len(PORTS)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(source)
            for address in (SERVICE, NOBODY):
                client.sendto(b"?", (address, 53))


def ours() -> float:
    built = world(service("dns", SERVICE, "53/UDP"), endpoint_slice("dns", "53/UDP", ["10.244.0.1"]))
    addresses = partial(local_addresses, Family.V4)
    flows = FlowReconciler(KernelConntrack(Family.V4), addresses, SETTINGS, Family.V4, SystemClock())
    started = time.perf_counter()
    status = flows.reconcile(built, node_state(built, SETTINGS, Family.V4), None, ())
    seconds = time.perf_counter() - started
    assert not status.error, status.error
    assert status.deleted, "no flow was made"
    return seconds


def by_hand() -> float:
    started = time.perf_counter()
    argv = ["conntrack", "-D", "-p", "udp", "--orig-dst", SERVICE, "--orig-port-dst", "53"]
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - started


def measure(count: int) -> dict[str, float]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (SERVICE, NOBODY):
        subprocess.run(["ip", "addr", "add", address, "dev", "lo"], check=True)
    subprocess.run(["iptables", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW"], check=True)
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        for name, end in (("ours", ours), ("bare", by_hand)):
            make_flows(count)
            found[name].append(end())
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def in_own_namespace(count: int) -> Any:
    """Measure in a new network namespace; seconds of `ours` and of `bare`."""
    return run_inside(__file__, str(count))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
