"""flanneld -kube-subnet-mgr on the real API server: podCIDRs carry pods, Nodes move routes and neighbours."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.netns.flannel_bed import UNDERLAY, Bed, run
from tests.waiting import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
]

PREFIX = "flannel.alpha.coreos.com"
NET_CONF = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}


class KubeBed(Bed):
    """The bed with `kubeproxy apiserver` on node 0 in the store's place, and kubectl to write Nodes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = f"https://{UNDERLAY}.1:8001"
        self.net_conf = directory / "net-conf.json"
        self.net_conf.write_text(json.dumps(NET_CONF))

    def start_api(self) -> None:
        address = ("--bind-address", f"{UNDERLAY}.1")
        argv = [
            sys.executable,
            "-m",
            "kubeproxy",
            "apiserver",
            "--store",
            f"sqlite:{self.directory}/api.db",
            *address,
            f"--cert-dir={self.directory}/pki",
            f"--write-kubeconfig={self.directory}/admin.conf",
        ]
        self.store = self._start(0, argv, "api.log")
        until(
            lambda: "ok" in self.on_node(0, "curl", "-sm", "2", f"{self.server}/readyz", "-k", check=False),
            "the API",
        )

    def command(self, number: int) -> tuple[str, ...]:
        program = ("env", f"NODE_NAME=node{number}", sys.executable, "-m", "flannel", "-kube-subnet-mgr")
        config = self.directory / f"node{number}.conf"
        issue = ("--user", f"system:node:node{number}", "--group", "system:nodes", "--server", self.server)
        argv = (
            sys.executable,
            "-m",
            "kubeproxy",
            "apiserver",
            "kubeconfig",
            "--cert-dir",
            f"{self.directory}/pki",
        )
        config.write_text(run(*argv, *issue))
        return *program, "-kubeconfig-file", str(config), "-net-config-path", str(self.net_conf)

    def kubectl(self, *arguments: str) -> str:
        return self.on_node(0, "kubectl", "--kubeconfig", f"{self.directory}/admin.conf", *arguments)

    def register(self, number: int, **spec: str) -> None:
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node{number}"}, "spec": spec}
        file = self.directory / f"node{number}.json"
        file.write_text(json.dumps(body))
        self.kubectl("create", "-f", str(file))

    def node(self, number: int, path: str) -> str:
        return self.kubectl("get", "node", f"node{number}", "-o", f"jsonpath={path}")

    def annotation(self, number: int, name: str) -> str:
        return self.node(number, "{.metadata.annotations." + PREFIX.replace(".", r"\.") + f"/{name}" + "}")

    def kernel_of(self, number: int) -> str:
        shown = (
            ("ip", "route", "show", "dev", "flannel.1"),
            ("ip", "neigh", "show", "dev", "flannel.1", "nud", "permanent"),
            ("bridge", "fdb", "show", "dev", "flannel.1"),
        )
        return "".join(self.on_node(number, *argv) for argv in shown)


@pytest.fixture
def bed(tmp_path: Path):
    made = KubeBed(tmp_path)
    try:
        made.open()
        made.start_api()
        yield made
    finally:
        made.close()


def test_two_nodes_meet_by_their_node_objects_and_go_on_without_the_api(bed: KubeBed):
    bed.register(0, podCIDR="10.244.1.0/24")
    bed.register(1)
    for number in range(2):
        bed.start(number, "-ip-masq")
    bed.wait_ready(0)
    until(lambda: "pod cidr not assigned yet" in bed.log(1), f"node 1 waits for its podCIDR; {bed.log(1)}")
    why = bed.on_node(1, "curl", "-sm", "2", "http://127.0.0.1:10256/readyz")
    assert "flanneld is not ready: node 'node1' pod cidr not assigned yet" in why
    bed.kubectl("patch", "node", "node1", "-p", '{"spec":{"podCIDR":"10.244.2.0/24"}}')
    bed.wait_ready(1)
    assert bed.subnet_env(1)["FLANNEL_SUBNET"] == "10.244.2.1/24"
    addresses = [bed.attach_pod(number) for number in range(2)]
    until(lambda: bed.pings(0, addresses[1]) and bed.pings(1, addresses[0]), "traffic", 10)
    condition = '{.status.conditions[?(@.type=="NetworkUnavailable")].reason}'
    until(lambda: bed.node(1, condition) == "FlannelIsUp", "the condition is set")

    mac = json.loads(bed.annotation(1, "backend-data"))["VtepMAC"]
    assert mac == bed.on_node(1, "cat", "/sys/class/net/flannel.1/address").strip()
    bed.stop(1)
    bed.on_node(1, "ip", "link", "delete", "flannel.1")
    bed.start(1)
    bed.wait_ready(1)
    assert bed.on_node(1, "cat", "/sys/class/net/flannel.1/address").strip() == mac, (
        "the annotation's MAC is taken"
    )
    until(lambda: bed.pings(0, addresses[1]), "traffic", 10)

    bed.stop_store()
    until(lambda: not bed.ready(0), "not ready while the nodes cannot be watched", 10)
    assert bed.pings(0, addresses[1], count=5)
    assert bed.pings(1, addresses[0], count=5)
    bed.start_api()
    bed.wait_ready()
    assert bed.pings(0, addresses[1])

    # Node 1 is reached at another address from now on, and its neighbours hear of it.
    bed.kubectl("annotate", "node", "node1", f"{PREFIX}/public-ip-overwrite={UNDERLAY}.102")
    until(lambda: f"dst {UNDERLAY}.102" in bed.kernel_of(0), "node 0 sends to the new address")
    bed.on_node(1, "ip", "addr", "add", f"{UNDERLAY}.102/24", "dev", "eth0")
    until(lambda: bed.pings(0, addresses[1]), "traffic", 10)

    bed.stop(1)
    bed.kubectl("delete", "node", "node1")
    until(lambda: not bed.kernel_of(0), "route, neighbour and forwarding entry are gone")


def test_what_names_no_node_ends_with_one_line(bed: KubeBed):
    argv = (
        "env",
        "-u",
        "NODE_NAME",
        sys.executable,
        "-m",
        "flannel",
        "-kube-subnet-mgr",
        "-kube-api-url",
        bed.server,
    )
    with pytest.raises(AssertionError, match="env variable NODE_NAME, or POD_NAME and POD_NAMESPACE, must be set"):
        run(*argv)
