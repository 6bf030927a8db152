"""nftables follows jumps 16 chains deep: the deepest tree, before the Service of the deepest chains, must fit."""

import pytest

from kubeproxy.dataplane.iptables import tree
from kubeproxy.dataplane.iptables.choose import FAN_OUT, LINEAR_MAX
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import key_of
from kubeproxy.model.runs import SIZE
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service
from tests.netns.lone_namespace import lone_namespace
from tests.netns.real_kernel import RealKernel
from tests.property.agent_bed import Agent
from tests.property.strategies_histories import Batch

pytestmark = pytest.mark.netns

BESIDE = (
    "26.0.0.1",
    "11.0.0.1",
    "10.112.0.1",
    "10.97.0.1",
    "10.96.16.1",
    "10.96.1.1",
    "10.96.0.17",
    "10.96.0.2",
)
"""Each differs from 10.96.0.1 in one hexadecimal digit more to the right."""
ENDPOINTS = LINEAR_MAX * FAN_OUT**2 + 1, 2 * SIZE * FAN_OUT
"""As many as make the tree over a list deepest, and the tree over runs."""
PORTS = (80, *range(0x2000, 0x2000 + tree.SPLIT))


@pytest.mark.parametrize("endpoints", ENDPOINTS)
@pytest.mark.parametrize("flavour", list(Flavour))
def test_the_deepest_way_to_an_endpoint_is_one_that_the_kernel_takes(flavour: Flavour, endpoints: int) -> None:
    many = [f"10.244.{i >> 8}.{i & 255}" for i in range(endpoints)]
    ports = ",".join(f"p{port}={port}>80" for port in PORTS)
    deep = service(
        "deep", "172.30.0.1", ports, load_balancer_ips=("10.96.0.1",), source_ranges=("203.0.113.0/24",)
    )
    beside = service("beside", "172.30.0.2", external_ips=BESIDE)
    slices = endpoint_slice("deep", "p80=80>80", many), endpoint_slice("beside", "80", ["10.244.0.1"])
    with lone_namespace() as empty:
        kernel = RealKernel(empty.run, flavour)
        agent = Agent(kernel, Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",)))
        agent.hear(
            Batch(
                services={key_of(each): each for each in (deep, beside)},
                slices={key_of(each): each for each in slices},
            )
        )
        agent.settle()
        nat = kernel.run(lambda: kernel.saved(Family.V4))["nat"]
        assert any(chain.startswith("KUBE-SVC-") and len(chain) == 28 for chain in nat), "a tree over endpoints"
        branches = {chain for chain in nat if chain.startswith("KUBE-TREE-S-")}
        assert f"KUBE-TREE-S-{0x0A600001:08X}" in branches  # which is at the bottom
        assert len([each for each in branches if "KUBE-TREE-S-0A600001".startswith(each)]) == tree.DEEPEST
        agent.cleanup()
