"""Every container of scripts/deploy runs with what its manifest gives it, and is granted what it asks for."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy_manifests import DEPLOY, Obj, named, rendered, workload
from tests.netns.deploy_bed import ADDRESS, NODE, Node
from tests.waiting import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
]

NODE_PROXIER = {
    *((verb, "", resource) for verb in ("list", "watch") for resource in ("endpoints", "services")),
    *((verb, "", "nodes") for verb in ("get", "list", "watch")),
    *((verb, group, "events") for verb in ("create", "patch", "update") for group in ("", "events.k8s.io")),
    *((verb, "discovery.k8s.io", "endpointslices") for verb in ("list", "watch")),
    *((verb, "networking.k8s.io", "servicecidrs") for verb in ("list", "watch")),
}
"""system:node-proxier, which every API server brings along (bootstrappolicy/policy.go)."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = Node(tmp_path_factory.mktemp("node"))
    try:
        made.open()
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDR": "10.244.1.0/24"},
        }
        made.apply(body)
        yield made
    finally:
        made.close()


@pytest.fixture
def node(machine: Node) -> Iterator[Node]:
    yield machine
    machine.stop_containers()


def granted(objects: list[Obj]) -> set[tuple[str, str, str]]:
    return {
        (verb, group, resource)
        for rule in named(objects, "ClusterRole")["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def config_maps(objects: list[Obj]) -> dict[str, Any]:
    return {obj["metadata"]["name"]: obj["data"] for obj in objects if obj["kind"] == "ConfigMap"}


@pytest.mark.parametrize("base", ["kube-proxy", "kube-proxy-nftables"])
def test_kube_proxy_runs_with_the_servers_own_role(node: Node, base: str):
    objects = rendered(base)
    config = yaml.safe_load((DEPLOY / "kube-proxy" / "kubeconfig.example.yaml").read_text())
    kubeconfig = config["data"]["kubeconfig.conf"].replace("https://API-SERVER.example:6443", node.server)
    node.start(workload(objects), {config["metadata"]["name"]: {"kubeconfig.conf": kubeconfig}})
    node.wait_ready(workload(objects))
    watched = {("watch", "", "services"), ("watch", "discovery.k8s.io", "endpointslices"), ("watch", "", "nodes")}
    until(lambda: watched <= node.asked("kube-proxy"), "everything is watched")
    assert node.asked("kube-proxy") <= NODE_PROXIER
    node.kubectl("create", "service", "clusterip", "web", "--tcp=80:80", "--clusterip=10.96.7.7")
    by_netlink = base == "kube-proxy-nftables"
    # It has no endpoints: in iptables mode it is an entry in a set, for one rule that refuses for all such.
    rules = "nft list table ip kube-proxy" if by_netlink else "ipset save"
    shown = "10.96.7.7 . tcp . 80 " if by_netlink else "10.96.7.7"
    until(lambda: shown in node.on("sh", "-c", rules, check=False), f"rules; {node.log('kube-proxy')}")
    node.kubectl("delete", "service", "web")
    # Without its rights the sysctl that iptables mode had set is told of, and no more than that.
    leftovers = json.loads(node.on("curl", "-s", "http://127.0.0.1:10249/statusz.json"))["leftovers"]
    assert all(by_netlink and "sysctl net/ipv4/conf/all/route_localnet=0: Read-only" in each for each in leftovers)


def test_flanneld_asks_for_what_it_is_granted(node: Node):
    objects = rendered("kube-flannel")
    node.start(workload(objects), config_maps(objects))
    node.wait_ready(workload(objects))
    until(lambda: node.asked("flannel") == granted(objects), f"not {node.asked('flannel')}")
    written = (node.disk / "etc/cni/net.d/10-flannel.conflist").read_text()
    assert written == config_maps(objects)["kube-flannel-cfg"]["cni-conf.json"]
    assert "FLANNEL_SUBNET=10.244.1.1/24" in (node.disk / "run/flannel/subnet.env").read_text()
    assert "flannel.1" in node.on("ip", "link")
    rules = node.on("sh", "-c", "iptables-legacy-save -t nat; iptables-nft-save -t nat", check=False)
    assert "-A FLANNEL-POSTRTG" in rules


@pytest.mark.parametrize("base", ["clusterdns", "clusterdns-node"])
def test_clusterdns_asks_for_what_it_is_granted(node: Node, base: str):
    objects = rendered(base)
    node.apply(named(objects, "Service"))
    node.start(workload(objects), config_maps(objects))
    node.wait_ready(workload(objects))
    until(lambda: node.asked("coredns") == granted(objects), f"not {node.asked('coredns')}")
    for transport in ("+notcp", "+tcp"):
        asked = ("dig", "+short", transport, f"@{ADDRESS}", "kube-dns.kube-system.svc.cluster.local")
        assert node.on(*asked).strip() == "10.96.0.10"
