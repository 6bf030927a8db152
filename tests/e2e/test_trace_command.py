"""`kubeproxy trace` against a real agent, in two network namespaces."""

import json
import signal
import subprocess

import pytest

from kubeproxy.kernel.tracing_nft import TABLE
from tests.e2e.test_agent_alone import BIN, NODE_IP, PEER_IP, Machine, machines, serve_web
from tests.waiting import until

__all__ = ["machines"]

pytestmark = pytest.mark.e2e

POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIP: {PEER_IP}, podIPs: [{{ip: {PEER_IP}}}]}}
"""


@pytest.fixture
def node(machines: tuple[Machine, Machine]) -> Machine:
    node, _ = machines
    node.agent("--cluster-cidr=10.244.0.0/16")
    serve_web(node)
    return node


def trace(node: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    return node.run("kubeproxy", "trace", *words)


def test_the_command_says_where_packets_go_and_why(node: Machine) -> None:
    found = trace(node, "outside", f"{NODE_IP}:30080")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "30080/TCP is the node port of default/web" in found.stdout
    assert f"FORWARD to {PEER_IP}:8000, masqueraded" in found.stdout

    # The rule that it names is one that the kernel has.
    answer = json.loads(trace(node, "10.244.0.9", "service/web", "-o", "json").stdout)
    assert (answer["outcome"], answer["packet"]["destination"]) == ("FORWARD", "10.96.7.7")
    kernel = [words(line.removeprefix("-A ")) for line in node.rules().splitlines() if line.startswith("-A")]
    named = [words(step["rule"].partition(" ")[2]) for step in answer["steps"] if "-j" in step["rule"]]
    assert named
    assert all(rule in kernel for rule in named), named

    found = trace(node, "node", "10.96.7.7:81/udp")
    assert found.returncode == 3
    assert "REFUSED" in found.stdout
    found = trace(node, "service/web")
    assert found.returncode == 0
    assert "cluster IP 10.96.7.7:80" in found.stdout

    # And what it says is what happens, by the kernel's own word.
    for client in ("outside", "node"):
        found = trace(node, client, f"{NODE_IP}:30080", "--live")
        assert found.returncode == 0, found.stdout + found.stderr
        assert f"{PEER_IP}:8000, masqueraded as {NODE_IP}" in found.stdout
        assert "model agrees" in found.stdout
    reject = ("OUTPUT", "-p", "tcp", "-d", PEER_IP, "-j", "REJECT")
    node.run("iptables-nft", "-I", *reject)
    found = trace(node, "node", "service/web", "--live")
    assert found.returncode == 3
    assert "the kernel stops it, by somebody else's rule: filter OUTPUT -d" in found.stdout
    answer = json.loads(trace(node, "node", "service/web", "--live", "-o", "json").stdout)
    assert answer["live"]["outcome"] == "REFUSED"
    node.run("iptables-nft", "-D", *reject)

    node.kubectl("delete", "endpointslice", "web-1")
    until(lambda: "no endpoints: refused" in trace(node, "localhost", "localhost:30080").stdout, "nobody is there")


def test_what_a_live_trace_sets_up_is_removed_when_it_is_ended(node: Machine) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        running = node.start(str(BIN / "kubeproxy"), "trace", "node", "192.0.2.9:80", "--live")
        until(lambda: TABLE in tables_of(node), "the packet is being traced")
        running.send_signal(number)
        assert running.wait(10) == 1
        assert TABLE not in tables_of(node)


def tables_of(node: Machine) -> str:
    return node.run("nft", "list", "tables").stdout


def test_without_a_default_route_the_stranger_is_a_neighbour(node: Machine) -> None:
    node.run("ip", "route", "del", "default")
    answer = json.loads(trace(node, "outside", f"{NODE_IP}:30080", "--live", "-o", "json").stdout)
    assert answer["packet"]["source"] == NODE_IP.rpartition(".")[0] + ".254"
    assert answer["packet"]["interface"] == "eth0"
    assert answer["live"]["differences"] == []
    found = trace(node, "198.51.100.1", f"{NODE_IP}:30080")
    assert "no route to 198.51.100.1" in found.stdout


def test_pods_and_nodes_are_looked_up(node: Machine) -> None:
    node.kubectl("apply", "-f", "-", stdin=POD)
    node.kubectl("patch", "pod", "client", "--subresource=status", "--type=merge", "-p", _status())
    answer = json.loads(trace(node, "pod/client", "service/web", "-o", "json").stdout)
    assert answer["packet"] | {"port": 80} == {
        "origin": "pod",
        "source": PEER_IP,
        "interface": "eth0",
        "destination": "10.96.7.7",
        "port": 80,
        "protocol": "TCP",
    }
    answer = json.loads(trace(node, NODE_IP, "service/web", "--from=pod/client", "-o=json").stdout)
    assert answer["packet"]["origin"] == "pod"
    lost = trace(node, "pod/nobody", "service/web")
    assert lost.returncode == 1
    assert "pod default/nobody" in lost.stderr


def test_what_cannot_be_answered_says_why(node: Machine) -> None:
    for words, complaint in (
        (("outside", "service/nope"), "there is no Service default/nope"),
        (("service/web", "service/web"), "a Service sends nothing"),
        (("outside", "10.96.7.7"), "needs a port"),
        (("outside",), "name SRC and DST, or service/NAME"),
        (("outside", "10.0.0.1:80", "--from=moon"), 'for "--from" flag'),
        (("outside", "10.0.0.1:80", "-o", "xml"), "text or json"),
        (("outside", "10.0.0.1:80", "--metrics-address=127.0.0.1:1"), "no agent answers at 127.0.0.1:1"),
        (("outside", "10.0.0.1:80", "--metrics-address=127.0.0.1:8001"), "no agent answers"),
    ):
        found = trace(node, *words)
        assert found.returncode == 1, words
        assert complaint in found.stderr
        assert "Traceback" not in found.stderr


def words(rule: str) -> list[str]:
    """Return a rule's words in a form that iptables-save and we share: it sorts matches its own way."""
    return sorted(rule.replace('"', "").split())


def _status() -> str:
    return json.dumps({"status": {"phase": "Running", "podIP": PEER_IP, "podIPs": [{"ip": PEER_IP}]}})
