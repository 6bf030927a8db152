"""What becomes of each mode, and of `--mode auto`, on this machine's own kernel, whatever it has."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_bed import BIN, NODE_IP, PEER_IP, Machine, serve_web, two_machines
from tests.waiting import until

pytestmark = pytest.mark.e2e

IPVS = """
from kubeproxy.dataplane.ipvs.needs import missing
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.features import Features
from kubeproxy.kernel.ipvs import Ipvs
print(*[need.module for need in missing(Features(SystemExec(), Ipvs()), 'rr')])
"""
"""Which modules ipvs mode misses."""
NFTABLES = """
from kubeproxy.dataplane.nftables.needs import PROBE_TABLE, trouble
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.model.addresses import Family
print(trouble(KernelTable(Family.V4, PROBE_TABLE)))
"""
"""Why nftables mode cannot run."""
OTHERS = """
table inet kube-proxy { chain a { type filter hook forward priority 0; counter accept; }; }
table ip mine { set s { type ipv4_addr; elements = { 192.0.2.1 }; }; }
"""
CONFIGURATION = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: node
mode: MODE
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with two_machines(tmp_path) as both:
        yield both


def asked(node: Machine, question: str) -> str:
    """Return what a kernel answers, asked inside the namespace."""
    answer = node.run(str(BIN / "python"), "-c", question)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def rules_by_netlink(node: Machine) -> str:
    return node.run("nft", "-s", "list", "ruleset").stdout


def test_auto_serves_in_the_best_mode_and_one_that_the_kernel_has_not_is_refused(
    machines: tuple[Machine, Machine],
) -> None:
    node, peer = machines
    modules, trouble = asked(node, IPVS).split(), asked(node, NFTABLES)
    refusals = {"ipvs": "this kernel has no " if modules else "", "nftables": trouble}
    for mode, why in refusals.items():
        if not why:
            continue
        refused = node.run(str(BIN / "kubeproxy"), f"--mode={mode}", f"--data-dir={node.directory / 'none'}")
        assert refused.returncode == 1
        (complaint,) = [line for line in refused.stderr.splitlines() if line.startswith("Error: ")]
        assert complaint.startswith(f"Error: mode {mode} cannot run here: {why}")
        assert mode != "ipvs" or f"modprobe -a {' '.join(modules)}" in complaint
        # It ended before it changed anything.
        assert "KUBE" not in node.rules()
        assert "kube-proxy" not in rules_by_netlink(node)
        assert not (node.directory / "none").exists()
    order = ("nftables", "ipvs", "iptables")
    best = next(mode for mode in order if not refusals.get(mode))
    agent = node.agent("--mode=auto")
    serve_web(node)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    assert node.run("curl", "-s", "http://127.0.0.1:10249/proxyMode").stdout == best
    assert f"node node, mode {best} (" in node.run("kubeproxy", "status").stdout
    until(lambda: f"mode auto: {best}" in node.log_of(agent), "the log says which mode it is")
    assert all(f"mode auto: not {mode}: " in node.log_of(agent) for mode in order[: order.index(best)])


@pytest.fixture
def nft_machines(machines: tuple[Machine, Machine]) -> tuple[Machine, Machine]:
    if trouble := asked(machines[0], NFTABLES):
        pytest.skip(trouble)
    return machines


def test_nftables_mode_serves_repairs_and_is_taken_away(nft_machines: tuple[Machine, Machine]) -> None:
    """Alone, as a program: no iptables is touched, and the administrator's own tables stay."""
    node, peer = nft_machines
    node.run("nft", "-f", "-", stdin=OTHERS)
    before, iptables = rules_by_netlink(node), node.rules()
    agent = node.agent("--mode=nftables")
    serve_web(node)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    shown = node.run("kubeproxy", "status")
    assert shown.returncode == 0, shown.stdout
    assert "node node, mode nftables (netlink)" in shown.stdout
    assert node.rules() == iptables
    assert '10.96.7.7 . tcp . 80 comment "default/web" : 6b00:' in rules_by_netlink(node)
    # What somebody flushes comes back by itself.
    node.run("nft", "delete", "table", "ip", "kube-proxy")
    until(lambda: peer.status_of(f"http://{NODE_IP}:30080/") == "200", "the table is back")
    # A killed agent's successor finds everything as it was.
    agent.send_signal(signal.SIGKILL)
    agent.wait(10)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    agent = node.agent("--mode=nftables")
    until(lambda: node.status_of("http://127.0.0.1:10256/healthz") == "200", "the next one serves")
    assert node.run("kubeproxy", "cleanup").returncode == 1
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0
    assert node.run("kubeproxy", "cleanup").returncode == 0
    assert rules_by_netlink(node) == before


def test_nftables_mode_needs_no_program_at_all(nft_machines: tuple[Machine, Machine]) -> None:
    """Neither iptables nor nft nor ipset: serving, telling, tracing, restarting and cleaning up."""
    node, peer = nft_machines
    alone = ("/usr/bin/env", f"PATH={node.directory}", str(BIN / "kubeproxy"))
    before = rules_by_netlink(node)
    agent = node.start(*alone, "--mode=auto", "--hostname-override=node", f"--data-dir={node.directory / 'data'}")
    serve_web(node)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    shown = node.run(*alone, "status")
    assert (shown.returncode, "mode nftables (netlink)" in shown.stdout) == (0, True), shown.stdout
    assert "left by another proxy" not in shown.stdout
    traced = node.run(*alone, "trace", PEER_IP, f"{NODE_IP}:30080", "--from", "outside", "--live")
    assert traced.returncode == 0, traced.stdout + traced.stderr
    assert "model agrees" in traced.stdout
    assert "not looked at" not in traced.stdout
    node.run("iptables-nft", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
    traced = node.run(*alone, "trace", PEER_IP, f"{NODE_IP}:30080", "--from", "outside")
    assert "not looked at: other people's rules (iptables-nft-save: not installed" in traced.stdout
    node.run("nft", "delete", "table", "ip", "filter")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0
    assert node.run(*alone, "cleanup").returncode == 0
    assert rules_by_netlink(node) == before


def test_a_file_sets_the_mode_and_its_change_changes_it(nft_machines: tuple[Machine, Machine]) -> None:
    """The process ends when the file does not say the same any more; whoever starts it gets the other mode."""
    node, peer = nft_machines
    file = node.directory / "config.yaml"
    for mode, theirs in (("iptables", "kube-proxy"), ("nftables", "KUBE-SVC"), ("iptables", "kube-proxy")):
        file.write_text(CONFIGURATION.replace("MODE", mode))
        agent = node.start(
            *(str(BIN / "kubeproxy"), f"--config={file}", f"--data-dir={node.directory / 'data'}"),
        )
        serve_web(node)
        assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
        assert node.run("curl", "-s", "http://127.0.0.1:10249/proxyMode").stdout == mode
        until(
            lambda theirs=theirs: theirs not in node.rules() + rules_by_netlink(node), "the other mode's is gone"
        )
        file.write_text(CONFIGURATION.replace("MODE", mode) + "# seen\n")
        assert agent.wait(20) == 1
        assert "configuration file was updated" in node.log_of(agent)
        assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"


def test_connections_are_counted_and_packets_traced(nft_machines: tuple[Machine, Machine]) -> None:
    node, peer = nft_machines
    node.agent("--mode=nftables")
    serve_web(node)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    shown = json.loads(node.run("kubeproxy", "status", "web", "-o", "json").stdout)
    assert shown["counted_by"] == "connection tracking"
    (port,) = shown["ports"]
    counted = {each["address"]: each["counts"] for each in port["servers"]}
    assert counted["10.96.7.7:80"]["inactive"] >= 1
    assert counted[f"{NODE_IP}:30080"]["inactive"] >= 1
    traced = node.run("kubeproxy", "trace", PEER_IP, f"{NODE_IP}:30080", "--from", "outside", "--live")
    assert traced.returncode == 0, traced.stdout + traced.stderr
    assert "node node, nftables (netlink), IPv4" in traced.stdout
    assert "map nodeport-classes: tcp . 30080 → nodeport-masquerade-1" in traced.stdout
    assert " → nat-prerouting → services → nodeports → nodeport-masquerade-1 → " in traced.stdout
    assert "model agrees" in traced.stdout
    # What it names is what nft shows.
    for client, address in (
        ("10.244.0.9", "service/web"),
        ("outside", f"{NODE_IP}:30080"),
        ("node", "10.96.7.7:81"),
    ):
        answer = json.loads(node.run("kubeproxy", "trace", client, address, "-o", "json").stdout)
        named = [step["rule"] for step in answer["steps"] if step["rule"]]
        assert named
        for rule in named:
            where, _, words = rule.partition(" ")
            if where in ("map", "set"):
                name, _, shown = words.partition(": ")
                listed = node.run("nft", "list", where, "ip", "kube-proxy", name).stdout
                assert shown.partition(" → ")[0] in listed, rule
            else:
                assert (
                    f"\t{words}\n" in node.run("nft", "-s", "list", "chain", "ip", "kube-proxy", where).stdout
                ), rule
