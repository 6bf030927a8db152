"""Connections through a Service that are held open, and what `kubeproxy status --services` says of them."""

import json
import signal
import subprocess
import sys
import time
from typing import Any

from tests.agent_bed import BIN, NODE_IP, PEER_IP, Machine
from tests.waiting import until

SECOND_IP = "192.168.9.3"
CLUSTER_IP = "10.96.7.7"
OLD, NEW = f"{PEER_IP}:8000", f"{SECOND_IP}:8000"

HOLD = """
import signal, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = [socket.create_connection((host, port), 10) for _ in range(count)]
print("open", flush=True)
signal.pause()
"""

MOVED = f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: "", port: 8000}}]
endpoints: [{{addresses: [{SECOND_IP}]}}]
"""


def hold(machine: Machine, host: str, port: int, count: int) -> subprocess.Popen[str]:
    """Open connections that stay; they end with the process."""
    process = machine.start(sys.executable, "-c", HOLD, host, str(port), str(count))
    until(lambda: "open" in machine.log_of(process), f"{count} connections to {host}:{port} stand")
    return process


def port_of(node: Machine, name: str = "web") -> dict[str, Any]:
    """Return what is said of a Service's only port."""
    shown = node.run("kubeproxy", "status", name, "-o", "json")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (port,) = json.loads(shown.stdout)["ports"]
    return port


def server_of(port: dict[str, Any], address: str) -> dict[str, Any]:
    (server,) = [each for each in port["servers"] if each["address"] == address]
    return server


def active(node: Machine, address: str) -> dict[str, int]:
    """Return the active connections of a virtual server's destinations."""
    server = server_of(port_of(node), address)
    return {each["endpoint"]: each["counts"]["active"] for each in server["destinations"]}


def connections_are_counted(node: Machine, peer: Machine) -> None:
    """Open, look, move the endpoint, look, close, look. The Service is served already."""
    peer.run("ip", "address", "add", f"{SECOND_IP}/24", "dev", "eth0")
    inside, outside = f"{CLUSTER_IP}:80", f"{NODE_IP}:30080"
    holders = [hold(node, CLUSTER_IP, 80, 3), hold(peer, NODE_IP, 30080, 2)]
    assert active(node, inside) == {OLD: 3}
    assert active(node, outside) == {OLD: 2}
    shown = node.run("kubeproxy", "status", "--services").stdout
    assert "default/web TCP IPv4" in shown
    assert f"{inside}/TCP cluster IP" in shown
    assert "draining" not in shown

    applied = node.kubectl("apply", "-f", "-", stdin=MOVED)
    assert applied.returncode == 0, applied.stderr
    until(lambda: active(node, inside) == {OLD: 3, NEW: 0}, "the connections go on where they are")
    holders.append(hold(node, CLUSTER_IP, 80, 1))
    assert active(node, inside) == {OLD: 3, NEW: 1}
    draining = {each["endpoint"]: each["draining"] for each in server_of(port_of(node), inside)["destinations"]}
    assert draining == {OLD: True, NEW: False}
    assert f"→ {OLD} draining" in node.run("kubeproxy", "status", "web.default").stdout

    for holder in holders:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    until(lambda: sum(active(node, inside).values()) == 0, "closed connections are active no more")


def watching_ends_cleanly(node: Machine) -> None:
    """Into a file: a picture each time, and Ctrl-C is its end."""
    watch = node.start(str(BIN / "kubeproxy"), "status", "--services", "--watch=0.2")
    until(lambda: node.log_of(watch).count("default/web TCP IPv4") >= 3, "there are several pictures")
    watch.send_signal(signal.SIGINT)
    assert watch.wait(10) == 0
    text = node.log_of(watch)
    assert "Traceback" not in text
    assert "\x1b" not in text


def rates_are_shown(node: Machine) -> None:
    """Where IPVS counts: some hundred connections in a few seconds are seen as a rate."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for _ in range(5):
            assert node.status_of(f"http://{CLUSTER_IP}/") == "200"
        counts = server_of(port_of(node), f"{CLUSTER_IP}:80")["counts"]
        if counts["connections_rate"] and counts["bytes_in_rate"]:
            return
    raise AssertionError(f"no rate: {counts}")
