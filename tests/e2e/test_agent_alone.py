"""`kubeproxy --mode iptables` alone on a machine: the issue's point 4, in two network namespaces.

`node` runs the agent with its embedded store and API; `peer`, on the other end of a cable, is the client outside
and also runs the web server that a Service leads to.
"""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_bed import API, BIN, NODE_IP, PEER_IP, Machine, serve_web, two_machines
from tests.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with two_machines(tmp_path) as both:
        yield both


def nat_rules(node: Machine) -> int:
    """Count the rules in chains of ours and those that lead there."""
    lines = node.run("iptables-nft-save", "-t", "nat").stdout.splitlines()
    return sum(line.startswith("-A") and "KUBE-" in line for line in lines)


def test_one_machine_needs_nothing_else(machines: tuple[Machine, Machine]) -> None:
    node, peer = machines
    agent = node.agent()
    serve_web(node)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    assert node.status_of("http://127.0.0.1:30080/") == "200"

    assert node.status_of("http://127.0.0.1:10256/healthz") == "200"
    assert node.status_of("http://127.0.0.1:10256/livez") == "200"
    assert node.run("curl", "-s", "http://127.0.0.1:10249/proxyMode").stdout == "iptables"
    metrics = node.run("curl", "-s", "http://127.0.0.1:10249/metrics").stdout
    assert 'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}' in metrics
    assert "kubeproxy_iptables_localhost_nodeports_accepted_packets_total 1.0" in metrics
    assert "kubeproxy_iptables_ct_state_invalid_dropped_packets_total 0.0" in metrics
    assert (
        f'kubeproxy_sync_proxy_rules_iptables_total{{ip_family="IPv4",table="nat"}} {nat_rules(node)}.0' in metrics
    )
    until(lambda: "Starting" in node.kubectl("get", "events").stdout, "its start is an Event of the Node")
    shown = node.run("kubeproxy", "status")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "node node" in shown.stdout

    node.kubectl("delete", "endpointslice", "web-1")
    refused = ("curl", "-s", "-m", "2", "http://10.96.7.7/")
    until(lambda: node.run(*refused).returncode == 7, "a Service without endpoints refuses")
    node.kubectl("delete", "service", "web")
    until(lambda: "10.96.7.7" not in node.rules(), "nothing of the Service is left")

    agent.send_signal(signal.SIGINT)
    assert agent.wait(10) == 0


def test_services_go_on_while_the_agent_is_away_and_are_taken_over(machines: tuple[Machine, Machine]) -> None:
    node, peer = machines
    agent = node.agent()
    serve_web(node)
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        agent.send_signal(number)
        assert agent.wait(10) == status
        assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
        agent = node.agent()
        until(lambda: node.status_of("http://127.0.0.1:10256/healthz") == "200", "the agent is back")
        assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"


def test_a_restore_that_hangs_does_not_keep_the_agent_from_ending(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    node, peer = machines
    agent = node.agent()
    serve_web(node)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0

    (programs := tmp_path / "programs").mkdir()
    for flavour in ("nft", "legacy"):
        script = programs / f"iptables-{flavour}-restore"
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/hangs\nexec sleep 600\n")
        script.chmod(0o755)
    agent = node.agent(programs=programs)
    until((tmp_path / "hangs").exists, "a restore hangs")
    agent.send_signal(signal.SIGTERM)
    until(lambda: "ending" in node.log_of(agent), "the agent waits for the restore")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(5) == 0
    assert "did not end in time and was killed" in node.log_of(agent)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"


def test_labels_take_services_and_slices_away_and_give_them_back(machines: tuple[Machine, Machine]) -> None:
    """As upstream watches them: `headless` counts on slices alone, `service-proxy-name` on Services alone."""
    node, _ = machines
    node.agent()
    serve_web(node)
    url = "http://10.96.7.7/"
    label = "service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"
    node.kubectl("label", "service", "web", f"{label[0]}=")
    node.kubectl("label", "endpointslice", "web-1", f"{label[1]}=other")
    node.kubectl("label", "endpointslice", "web-1", f"{label[0]}=")
    until(lambda: node.run("curl", "-s", "-m", "2", url).returncode == 7, "a Service without endpoints refuses")
    node.kubectl("label", "endpointslice", "web-1", f"{label[0]}-")
    until(lambda: node.status_of(url) == "200", "it is served, whatever the other labels")
    node.kubectl("label", "service", "web", f"{label[1]}=other")
    until(lambda: "10.96.7.7" not in node.rules(), "nothing of another proxy's Service is left")
    node.kubectl("label", "service", "web", f"{label[1]}-")
    until(lambda: node.status_of(url) == "200", "it is ours again")


def test_a_second_agent_is_refused_and_the_first_goes_on(machines: tuple[Machine, Machine]) -> None:
    """Whatever else it has of its own. A cleanup is refused too; another machine's agent is no second one."""
    node, peer = machines
    first = node.agent()
    serve_web(node)
    rules = node.rules()
    who = f"Error: kubeproxy (process {first.pid}) programs this node, "
    own = (f"--data-dir={node.directory / 'second'}", "--api-bind-address=127.0.0.1:8002")
    ports = ("--healthz-bind-address=127.0.0.1:20256", "--metrics-bind-address=127.0.0.1:20249")
    for argv in (("--hostname-override=node", *own, *ports), ("--mode=auto",), ("cleanup",), ("--cleanup",)):
        second = node.run(str(BIN / "kubeproxy"), *argv)
        assert second.returncode == 1
        assert second.stderr.splitlines()[-1].startswith(who)
        assert "Traceback" not in second.stderr
    assert "KUBE-SERVICES" in rules
    assert node.rules().count("KUBE-SERVICES") == rules.count("KUBE-SERVICES")
    assert not (node.directory / "second").exists()
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    peer.agent(f"--data-dir={node.directory / 'other'}")
    until(lambda: peer.status_of("http://127.0.0.1:10256/healthz") == "200", "another node's agent lives")
    first.kill()
    first.wait()
    node.agent()
    until(lambda: node.status_of("http://127.0.0.1:10256/healthz") == "200", "the next one serves")


@pytest.mark.parametrize("flavour", ["nft", "legacy"])
@pytest.mark.parametrize("how", [("cleanup",), ("--cleanup",)])
def test_cleanup_removes_all_of_ours_and_nothing_else(
    machines: tuple[Machine, Machine], flavour: str, how: tuple[str, ...]
) -> None:
    node, _ = machines
    # What is there already decides the flavour, and must survive.
    node.run(f"iptables-{flavour}", "-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.1", "-j", "MASQUERADE")
    node.run(f"iptables-{flavour}", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    before = sorted(line for line in node.rules().splitlines() if line.startswith("-A"))
    agent = node.agent()
    serve_web(node)
    assert "KUBE-SERVICES" in node.run(f"iptables-{flavour}-save").stdout
    agent.send_signal(signal.SIGTERM)
    agent.wait(10)
    done = node.run(str(BIN / "kubeproxy"), *how)
    assert done.returncode == 0, done.stderr
    rules = node.rules()
    assert "KUBE-" not in rules
    assert sorted(line for line in rules.splitlines() if line.startswith("-A")) == before
    assert node.run("ipset", "list", "-n").stdout == ""
    assert node.run(str(BIN / "kubeproxy"), *how).returncode == 0


def test_an_api_server_that_comes_later_is_waited_for(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    node, peer = machines
    agent = node.agent(f"--master={API}")
    until(lambda: node.status_of("http://127.0.0.1:10256/livez") == "200", "the agent lives")
    late = node.run("kubeproxy", "status")
    assert late.returncode == 3
    assert "the API server has not answered yet" in late.stdout
    store = f"--store=sqlite:{tmp_path / 'late.db'}"
    server = node.start(str(BIN / "kubeproxy"), "apiserver", store, "--bind-address=127.0.0.1")
    serve_web(node)
    # And one that goes away leaves the last good state.
    server.kill()
    server.wait()
    until(lambda: "last good state is kept" in node.run("kubeproxy", "status").stdout, "the loss is shown")
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    assert agent.poll() is None


def test_a_flush_by_somebody_else_is_repaired(machines: tuple[Machine, Machine]) -> None:
    node, peer = machines
    node.agent()
    serve_web(node)
    for number, table in enumerate(("nat", "filter", "mangle"), 1):
        node.run("iptables-nft", "-t", table, "-F")
        until(lambda number=number: repairs(node) == number, f"the flush of {table} is repaired")  # type: ignore[misc]
    until(lambda: peer.status_of(f"http://{NODE_IP}:30080/") == "200", "the rules are back")
    for table in ("nat", "filter", "mangle"):
        assert "-A KUBE-" in node.run("iptables-nft", "-t", table, "-S").stdout


def repairs(node: Machine) -> int:
    """Return how often what others did to the rules of IPv4 was put right."""
    status = json.loads(node.run("curl", "-s", "http://127.0.0.1:10249/statusz.json").stdout)
    (family,) = (each for each in status["families"] if each["family"] == 4)
    is_over = family["full_syncs"] == 1 + family["drifts"]
    return int(family["drifts"]) if is_over else -1


def balanced(name: str, number: int, policy: str, check: int) -> str:
    port = f"healthCheckNodePort: {check}, " if policy == "Local" else ""
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  {{type: LoadBalancer, clusterIP: 10.96.7.{number}, externalTrafficPolicy: {policy}, {port}ports: [{{port: 80}}]}}
"""


def slice_of(name: str, ready: bool, where: str = "node") -> str:
    return f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: "", port: 8000}}]
endpoints: [{{addresses: [{PEER_IP}], nodeName: {where}, conditions: {{ready: {str(ready).lower()}}}}}]
"""


def test_load_balancers_are_told_whether_this_node_has_endpoints(machines: tuple[Machine, Machine]) -> None:
    node, peer = machines
    node.start(sys.executable, "-m", "http.server", "31998", "--bind", "0.0.0.0")
    node.agent()
    check = f"http://{NODE_IP}:31999/"
    until(lambda: node.kubectl("get", "ns", "default").returncode == 0, "the API answers")
    for text in (balanced("web", 8, "Local", 31999), slice_of("web", True), balanced("late", 9, "Local", 31998)):
        applied = node.kubectl("apply", "-f", "-", stdin=text)
        assert applied.returncode == 0, applied.stderr
    until(lambda: peer.status_of(check) == "200", "a ready endpoint is told of")
    assert "X-Load-Balancing-Endpoint-Weight: 1" in peer.run("curl", "-si", check).stdout

    shown = node.run("kubeproxy", "status")
    assert shown.returncode == 3
    assert "health check node port 31998 (IPv4) is not open" in shown.stdout
    events = ("get", "events", "--field-selector=involvedObject.name=late")
    until(lambda: "FailedToStartServiceHealthcheck" in node.kubectl(*events).stdout, "its Event is there")
    assert node.kubectl("delete", "service", "late").returncode == 0

    node.kubectl("apply", "-f", "-", stdin=slice_of("web", False))
    until(lambda: peer.status_of(check) == "503", "an endpoint that is not ready does not count")
    node.kubectl("apply", "-f", "-", stdin=slice_of("web", True, "other"))
    until(lambda: "no local endpoints: default/web/TCP" in node.run("kubeproxy", "status").stdout, "it is shown")
    for policy, status in (("Cluster", "000"), ("Local", "503")):
        changed = node.kubectl("apply", "-f", "-", stdin=balanced("web", 8, policy, 31999))
        assert changed.returncode == 0, changed.stderr
        until(lambda status=status: peer.status_of(check) == status, f"policy {policy} gives {status}")
    node.kubectl("apply", "-f", "-", stdin=slice_of("web", True))
    until(lambda: peer.status_of(check) == "200", "and the endpoint is back")
    assert node.run("kubeproxy", "status").returncode == 0

    metrics = node.run("curl", "-s", "http://127.0.0.1:10249/metrics").stdout
    assert "kubeproxy_sync_proxy_rules_service_changes_pending 0.0" in metrics
    assert "process_resident_memory_bytes" in metrics
    assert "kube-proxy statusz" in node.run("curl", "-s", "http://127.0.0.1:10249/statusz").stdout


def dns(target: int) -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: dns}}
spec: {{clusterIP: 10.96.7.8, ports: [{{port: 53, protocol: UDP}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: dns-1, labels: {{kubernetes.io/service-name: dns}}}}
addressType: IPv4
ports: [{{name: "", port: {target}, protocol: UDP}}]
endpoints: [{{addresses: [{PEER_IP}]}}]
"""


ANSWER = """
import selectors, socket
chosen = selectors.DefaultSelector()
for port in (5301, 5302):
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", port))
    chosen.register(server, selectors.EVENT_READ)
while True:
    for key, _ in chosen.select():
        key.fileobj.sendto(str(key.fileobj.getsockname()[1]).encode(), key.fileobj.recvfrom(9)[1])
"""
ASK = """
import socket
client = socket.socket(type=socket.SOCK_DGRAM)
client.bind(("0.0.0.0", 40053))
client.settimeout(1)
client.connect(("10.96.7.8", 53))
client.send(b"?")
print(client.recv(9).decode())
"""


def test_a_udp_client_that_keeps_its_port_follows_its_service(machines: tuple[Machine, Machine]) -> None:
    node, peer = machines
    agent = node.agent()
    peer.start(sys.executable, "-c", ANSWER)
    until(lambda: node.kubectl("get", "ns", "default").returncode == 0, "the API answers")
    for target in (5301, 5302):
        applied = node.kubectl("apply", "-f", "-", stdin=dns(target))
        assert applied.returncode == 0, applied.stderr
        until(lambda: node.run(sys.executable, "-c", ASK).stdout == f"{target}\n", f"port {target} answers")  # noqa: B023
    metrics = node.run("curl", "-s", "http://127.0.0.1:10249/metrics").stdout
    deleted = [each for each in metrics.splitlines() if each.startswith("kubeproxy_conntrack_reconciler_deleted")]
    (line,) = (each for each in deleted if "IPv4" in each)
    assert float(line.split()[-1]) >= 1
    close_wait = node.run("cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait").stdout
    assert close_wait == "3600\n"
    assert agent.poll() is None


def test_the_configuration_is_shown_and_profiles_are_taken_when_asked_for(
    machines: tuple[Machine, Machine],
) -> None:
    node, _ = machines
    debug = "http://127.0.0.1:10249"
    agent = node.agent("--profiling", "--iptables-masquerade-bit=9")
    until(lambda: node.status_of(f"{debug}/healthz") == "200", "the agent lives")
    shown = json.loads(node.run("curl", "-s", f"{debug}/configz").stdout)["kubeproxy.config.k8s.io"]
    assert (shown["iptables"]["masqueradeBit"], shown["enableProfiling"]) == (9, True)
    flags = node.run("curl", "-s", f"{debug}/flagz").stdout.splitlines()
    assert {"iptables-masquerade-bit=9", "profiling=true", "hostname-override=node"} <= set(flags)
    assert "MainThread;" in node.run("curl", "-s", f"{debug}/debug/pprof/profile?seconds=0.3").stdout
    assert "thread MainThread" in node.run("curl", "-s", f"{debug}/debug/pprof/goroutine").stdout
    # Its end does not wait for a profile that is being taken.
    node.start("curl", "-s", f"{debug}/debug/pprof/profile?seconds=300")
    stacks = ("curl", "-s", f"{debug}/debug/pprof/goroutine")
    until(lambda: "in sample" in node.run(*stacks).stdout, "a profile is being taken")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(5) == 0


def test_a_taken_health_port_is_the_end_when_asked_for(machines: tuple[Machine, Machine]) -> None:
    node, _ = machines
    node.start(sys.executable, "-m", "http.server", "10256", "--bind", "127.0.0.1")
    address = "--healthz-bind-address=127.0.0.1:10256"
    until(lambda: node.status_of("http://127.0.0.1:10256/") == "200", "the port is taken")
    common = (
        str(BIN / "kubeproxy"),
        "--hostname-override=node",
        f"--data-dir={node.directory / 'data'}",
        address,
    )
    ended = node.run(*common, "--bind-address-hard-fail")
    assert ended.returncode == 1
    assert "Error: cannot listen on 127.0.0.1:10256: Address already in use" in ended.stderr
    agent = node.agent(address)
    until(lambda: node.status_of("http://127.0.0.1:10249/healthz") == "200", "without it, the agent goes on")
    assert agent.poll() is None
