"""kube-proxy's state on a busy node, taken over by the whole agent, given back and taken over again."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from kubeproxy.dataplane.leftovers.removal import remove_chains
from kubeproxy.dataplane.leftovers.upstream import IPTABLES_OWNED
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.traffic import ECHO_PORT, Route, Traffic, lost, traffic
from tests.netns.upstream_iptables import KUBELET_CHAINS, Node, install, install_kubelet
from tests.netns.upstream_modes import install_ipvs, install_nftables, set_names
from tests.scenarios.addresses import HOSTS, NODE, POD_NETWORK, virtual
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab
from tests.scenarios.modes import IPTABLES
from tests.waiting import until

pytestmark = pytest.mark.netns

API = "http://127.0.0.1:8001"
KUBEPROXY = str(Path(sys.executable).parent / "kubeproxy")
NODE_PORT, RATE = 30080, 200
VIP = {family: virtual("cluster", family, 200, 10) for family in Family}
EXTERNAL = {family: virtual("external", family, 200, 10) for family in Family}
SERVICE_RANGES = "10.96.0.0/16,fd00:10:96::c8:0/112"
BACKENDS = ("be1", "be3")
NAMESPACES = tuple(HOSTS[name].namespace for name in BACKENDS)

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "ipFamilyPolicy": "RequireDualStack",
        "clusterIPs": list(VIP.values()),
        "externalIPs": list(EXTERNAL.values()),
        "ports": [{"port": 80, "targetPort": ECHO_PORT, "nodePort": NODE_PORT}],
    },
}


def slice_of(family: Family) -> dict[str, object]:
    ready = [
        {"addresses": [HOSTS[name].address(family)], "nodeName": f"node{i}"} for i, name in enumerate(BACKENDS, 1)
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"web-{family.value}", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family.label,
        "ports": [{"name": "", "port": ECHO_PORT}],
        "endpoints": ready,
    }


WORLD = world(
    service("web", ",".join(VIP.values()), "80", node_port=NODE_PORT, external_ips=tuple(EXTERNAL.values())),
    *(
        endpoint_slice(
            "web",
            str(ECHO_PORT),
            [f"{HOSTS[name].address(family)}@node{i}" for i, name in enumerate(BACKENDS, 1)],
            suffix=family.label.lower(),
        )
        for family in Family
    ),
)
UPSTREAM = {
    family: Node(family=family, ip=NODE.address(family), cluster_cidr=POD_NETWORK[family]) for family in Family
}


def routes(families: Iterable[Family]) -> list[Route]:
    """Return every way to the Service: cluster IP, external IP and node port, from a pod and from outside."""
    found = []
    for family in families:
        own = NODE.address(family)
        found += [
            Route("pod", VIP[family], 80),
            Route("outside", own, NODE_PORT),
            Route("outside", EXTERNAL[family], 80),
            Route("pod", own, NODE_PORT),
            Route("pod", EXTERNAL[family], 80),
        ]
    return found


class Machine:
    """The lab's node with an API server and, at times, our agent."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []
        store = f"--store=sqlite:{directory / 'api.db'}"
        self._start("apiserver", store, "--bind-address=127.0.0.1", f"--service-cluster-ip-range={SERVICE_RANGES}")
        until(lambda: self.get(f"{API}/readyz") is not None, "the API server answers")
        self._create("/api/v1/namespaces/default/services", SERVICE)
        for family in Family:
            self._create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice_of(family))

    def rules(self, flavour: Flavour) -> str:
        """Return what one flavour's tables hold of a proxy, the kubelet's chains left out."""
        text = ""
        for family in Family:
            tables = Iptables(SystemExec(), family, flavour)
            text += self._lab.run("node", lambda tables=tables: "".join(map(tables.save, sorted(tables.in_use()))))
        lines = [line for line in text.splitlines() if "KUBE-" in line]
        return "\n".join(line for line in lines if not any(chain in line for chain in KUBELET_CHAINS))

    def agent(self) -> float:
        """Start the agent; return how long it took until it had taken over."""
        begun = time.monotonic()
        cidrs = ",".join(POD_NETWORK[family] for family in Family)
        process = self._start(
            "--mode=iptables", f"--master={API}", "--hostname-override=node1", f"--cluster-cidr={cidrs}"
        )

        def stands() -> bool:
            assert process.poll() is None, "the agent has ended"
            return self._stands()

        until(stands, "the agent has taken over")
        return time.monotonic() - begun

    def end(self, number: int) -> None:
        process = self._started.pop()
        process.send_signal(number)
        process.wait(20)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands on the node."""
        inside = ["ip", "netns", "exec", self._lab.name("node"), KUBEPROXY, *argv]
        wide = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(inside, capture_output=True, text=True, check=False, timeout=30, env=wide)

    def log(self) -> str:
        """Return what all programs have logged."""
        return "".join(file.read_text() for file in self._directory.glob("*.log"))

    def status(self) -> dict[str, object]:
        return json.loads(self.get("http://127.0.0.1:10249/statusz.json") or "{}")

    def _stands(self) -> bool:
        families = self.status().get("families", [])
        assert isinstance(families, list)
        return bool(families) and all(each["synced"] and each["ports"] for each in families)

    def get(self, url: str) -> str | None:
        def ask() -> str | None:
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    return answer.read().decode()
            except (urllib.error.URLError, OSError):
                return None

        return self._lab.run("node", ask)

    def _create(self, path: str, value: dict[str, object]) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(API + path, json.dumps(value).encode(), headers)
        self._lab.run("node", lambda: urllib.request.urlopen(request, timeout=5).close())

    def _start(self, *argv: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{len(self._started)}-{time.monotonic():.0f}.log").open("w") as log:
            inside = ["ip", "netns", "exec", self._lab.name("node"), KUBEPROXY, *argv]
            self._started.append(subprocess.Popen(inside, stdout=log, stderr=log, env=os.environ))
        return self._started[-1]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with build_lab() as built:
        yield built


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    started = Machine(lab, tmp_path)
    try:
        yield started
    finally:
        started.close()


def kubelet(lab: Lab, flavour: Flavour) -> None:
    for family in Family:
        lab.run("node", lambda family=family: install_kubelet(Iptables(SystemExec(), family, flavour)))


def kube_proxy(lab: Lab, flavour: Flavour, families: Iterable[Family] = Family) -> None:
    """Do what a kube-proxy in iptables mode does when it starts."""
    for family in families:
        tables = Iptables(SystemExec(), family, flavour)
        lab.run("node", lambda tables=tables, family=family: install(tables, WORLD, UPSTREAM[family]))


@pytest.mark.parametrize("theirs", list(Flavour))
@pytest.mark.parametrize("ours", list(Flavour))
def test_kube_proxy_is_taken_over_under_load(
    lab: Lab, machine: Machine, ours: Flavour, theirs: Flavour, record_property: Callable[[str, object], None]
) -> None:
    """The kubelet's hint makes ours; where kube-proxy is in the other flavour, that one ends up empty."""
    other = next(flavour for flavour in Flavour if flavour is not ours)
    took = []
    kubelet(lab, ours)
    kube_proxy(lab, theirs)
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        running.settle(1)
        for end in (signal.SIGTERM, signal.SIGKILL):
            took.append(machine.agent())
            assert "KUBE-SVC-" in machine.rules(ours)
            until(lambda: not machine.rules(other), f"nothing is left in {other}")
            assert machine.status()["leftovers"] == []
            machine.end(signal.SIGTERM)
            running.settle(0.5)
            took.append(machine.agent())
            machine.end(end)
            kube_proxy(lab, theirs)
            running.settle(1)
        took.append(machine.agent())
        until(lambda: not machine.rules(other), f"nothing is left in {other}")
    record_property("traffic", running.verdict())
    record_property("seconds until taken over", [round(each, 2) for each in took])
    for family in Family:
        tables = Iptables(SystemExec(), family, ours)
        saved = lab.run("node", lambda tables=tables: "".join(map(tables.save, ("filter", "mangle"))))
        assert all(f":{chain} " in saved for chain in KUBELET_CHAINS)


@pytest.mark.parametrize("ours", list(Flavour))
def test_the_nftables_mode_is_taken_over_under_load(
    lab: Lab, machine: Machine, ours: Flavour, record_property: Callable[[str, object], None]
) -> None:
    def upstream() -> None:
        for family in Family:
            endpoints = [f"{HOSTS[name].address(family)} . {ECHO_PORT}" for name in BACKENDS]
            own = VIP[family], EXTERNAL[family], NODE_PORT, endpoints
            lab.run("node", lambda family=family, own=own: install_nftables(family, *own))

    def is_gone() -> bool:
        return "kube-proxy" not in lab.run("node", lambda: SystemExec().run(["nft", "list", "tables"]).stdout)

    kubelet(lab, ours)
    upstream()
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        for _ in range(2):
            running.settle(0.5)
            machine.agent()
            until(is_gone, "the tables of the nftables mode are gone")
            running.settle(0.5)
            machine.end(signal.SIGTERM)
            upstream()
            # kube-proxy in nftables mode removes the rules of the iptables mode at its start, and so ours.
            for family in Family:
                tables = Iptables(SystemExec(), family, ours)
                lab.run("node", lambda tables=tables: list(remove_chains(tables, IPTABLES_OWNED)))
        machine.agent()
        until(is_gone, "the tables of the nftables mode are gone")
    record_property("traffic", running.verdict())
    assert "KUBE-SVC-" in machine.rules(ours)


def test_what_cannot_be_removed_is_shown_and_logged_once(lab: Lab, machine: Machine) -> None:
    """The ipvs mode's sets, one of which a rule of the administrator's refers to."""
    tables = Iptables(SystemExec(), Family.V4, Flavour.NFT)
    rule = "INPUT", "-m", "set", "--match-set", "KUBE-CLUSTER-IP", "dst", "-j", "ACCEPT"
    kubelet(lab, Flavour.NFT)
    lab.run("node", lambda: install_ipvs(tables))
    lab.run("node", lambda: tables.run("-A", *rule))
    machine.agent()
    until(lambda: bool(machine.status()["leftovers"]), "a leftover is told")
    assert machine.status()["leftovers"] == [
        "ipsets, IPv4: set KUBE-CLUSTER-IP stays: delete the iptables rule that refers to it"
    ]
    shown = machine.run("status")
    assert shown.returncode == 3
    assert "left by another proxy: ipsets, IPv4: set KUBE-CLUSTER-IP stays" in shown.stdout
    machine.end(signal.SIGTERM)
    assert machine.log().count("KUBE-CLUSTER-IP") == 1
    sets = lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout.split())
    assert set(sets) & set(set_names(Family.V4)) == {"KUBE-CLUSTER-IP", "KUBE-LOOP-BACK"}


@pytest.mark.parametrize("mode", IPTABLES)
@pytest.mark.parametrize("family", list(Family))
def test_rules_take_each_others_place_at_once(lab: Lab, mode: str, family: Family) -> None:
    """The backend alone, to and fro without a pause, in the families that the agent does not serve too."""
    flavour = Flavour(mode.removeprefix("iptables-"))
    settings = Settings(node_name="node1", cluster_cidrs=tuple(POD_NETWORK.values()))

    def ours() -> None:
        backend = IPTABLES[mode].backend(family)
        plan = backend.diff(wanted(WORLD, settings, family), None)
        assert plan is not None
        backend.apply(plan)

    kube_proxy(lab, flavour, [family])
    with traffic(lab, NAMESPACES, routes([family]), RATE, held=4) as running:
        running.settle(0.5)
        for _ in range(10):
            lab.run("node", ours)
            kube_proxy(lab, flavour, [family])


def test_the_traffic_notices_a_gap(lab: Lab) -> None:
    """Otherwise a take-over without loss would prove nothing: here the rules are away for 50 ms."""
    tables = Iptables(SystemExec(), Family.V4, Flavour.NFT)
    kube_proxy(lab, Flavour.NFT, [Family.V4])
    with Traffic(lab, NAMESPACES, routes([Family.V4]), RATE, held=1) as running:
        running.settle(0.5)
        assert not lost(running.verdict())
        lab.run("node", lambda: tables.run("-t", "nat", "-F", "KUBE-SERVICES"))
        running.settle(0.05)
        kube_proxy(lab, Flavour.NFT, [Family.V4])
        running.settle(0.5)
        assert lost(running.verdict())
        assert not running.verdict()["broken"]
