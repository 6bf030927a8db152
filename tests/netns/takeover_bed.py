"""A node in the scenarios' lab: an API server, one Service at every kind of address, and at times our agent."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.model.addresses import Family
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns import upstream_nftables
from tests.netns.traffic import ECHO_PORT, Route
from tests.netns.upstream_iptables import KUBELET_CHAINS, install, install_kubelet
from tests.netns.upstream_ports import Node
from tests.netns.warm_process import WarmProcess
from tests.scenarios.addresses import HOSTS, NODE, POD_NETWORK, virtual
from tests.scenarios.lab import Lab
from tests.waiting import until

API = "http://127.0.0.1:8001"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
KUBEPROXY = str(Path(sys.executable).parent / "kubeproxy")
NODE_PORT = 30080
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

NODE_OBJECT = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node1"},
    "status": {"addresses": [{"type": "InternalIP", "address": NODE.address(family)} for family in Family]},
}
"""Its addresses are where node ports answer in nftables mode."""


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

    def __init__(self, lab: Lab, directory: Path, *, warm: bool = False) -> None:
        self._lab = lab
        self._directory = directory
        self._warm = warm
        self._started: list[subprocess.Popen[bytes] | WarmProcess] = []
        store = f"--store=sqlite:{directory / 'api.db'}"
        self._start("apiserver", store, "--bind-address=127.0.0.1", f"--service-cluster-ip-range={SERVICE_RANGES}")
        until(lambda: self.get(f"{API}/readyz") is not None, "the API server answers")
        self._send("POST", "/api/v1/namespaces/default/services", SERVICE)
        self._send("POST", "/api/v1/nodes", NODE_OBJECT)
        for family in Family:
            self._send("POST", SLICES, slice_of(family))

    def rules(self, flavour: Flavour) -> str:
        """Return what one flavour's tables hold of a proxy, the kubelet's chains left out."""
        text = ""
        for family in Family:
            tables = Iptables(SystemExec(), family, flavour)
            text += self._lab.run("node", lambda tables=tables: "".join(map(tables.save, sorted(tables.in_use()))))
        lines = [line for line in text.splitlines() if "KUBE-" in line]
        return "\n".join(line for line in lines if not any(chain in line for chain in KUBELET_CHAINS))

    def agent(self, mode: str = "iptables", programs: str | None = None) -> float:
        """Start the agent; return how long it took until it had taken over.

        ``programs`` is the directory that has all those that it finds.
        """
        begun = time.monotonic()
        cidrs = ",".join(POD_NETWORK[family] for family in Family)
        arguments = (f"--mode={mode}", f"--master={API}", "--hostname-override=node1", f"--cluster-cidr={cidrs}")
        process = self._start(*arguments, **({} if programs is None else {"PATH": programs}))

        def stands() -> bool:
            assert process.poll() is None, "the agent has ended"
            return self._stands()

        until(stands, "the agent has taken over", 90)
        return time.monotonic() - begun

    def end(self, number: int) -> None:
        process = self._started.pop()
        process.send_signal(number)
        process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        """Return what the agent tells; nothing while it has no time to."""
        return json.loads(self.get("http://127.0.0.1:10249/statusz.json") or "{}")

    def told(self, field: str) -> object:
        """Return a field of that, waiting for an answer."""
        return until(lambda: self.status() or None, "the agent answers")[field]

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

    def put_slice(self, value: dict[str, object]) -> None:
        """Replace an EndpointSlice."""
        metadata = value["metadata"]
        assert isinstance(metadata, dict)
        self._send("PUT", f"{SLICES}/{metadata['name']}", value)

    def _send(self, method: str, path: str, value: dict[str, object]) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(API + path, json.dumps(value).encode(), headers, method=method)
        self._lab.run("node", lambda: urllib.request.urlopen(request, timeout=5).close())

    def _start(self, *argv: str, **variables: str) -> subprocess.Popen[bytes] | WarmProcess:
        file = self._directory / f"{len(self._started)}-{time.monotonic():.0f}.log"
        node, environment = self._lab.name("node"), {**os.environ, **variables}
        if self._warm:
            self._started.append(WarmProcess(node, argv, file, environment))
            return self._started[-1]
        with file.open("w") as log:
            inside = ["ip", "netns", "exec", node, KUBEPROXY, *argv]
            self._started.append(subprocess.Popen(inside, stdout=log, stderr=log, env=environment))
        return self._started[-1]


def kubelet(lab: Lab, flavour: Flavour) -> None:
    for family in Family:
        lab.run("node", lambda family=family: install_kubelet(Iptables(SystemExec(), family, flavour)))


def kube_proxy(lab: Lab, flavour: Flavour, families: Iterable[Family] = Family) -> None:
    """Do what a kube-proxy in iptables mode does when it starts."""
    for family in families:
        tables = Iptables(SystemExec(), family, flavour)
        lab.run("node", lambda tables=tables, family=family: install(tables, WORLD, UPSTREAM[family]))


def kube_proxy_nftables(lab: Lab, families: Iterable[Family] = Family) -> None:
    """Do what a kube-proxy in nftables mode does at its first sync."""
    for family in families:
        lab.run("node", lambda family=family: upstream_nftables.install(WORLD, UPSTREAM[family]))
