"""Nodes get podCIDRs: which block, and against the real API server in process that each gets one and keeps it."""

import asyncio
import contextlib
from ipaddress import ip_network

import pytest

from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.cli import main
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from kubeproxy.controllers.podcidrs import PodNetwork, free_pod_cidrs, pod_network
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import NODES
from tests.waiting import eventually

pytestmark = pytest.mark.unit

PODS = PodNetwork(network="10.244.0.0/22")


@pytest.mark.parametrize(
    ("held", "free"),
    [
        ([], ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]),
        (["10.244.1.0/24", "fd00::/64"], ["10.244.0.0/24", "10.244.2.0/24", "10.244.3.0/24"]),
        (["10.244.0.128/25", "10.244.2.0/23"], ["10.244.1.0/24"]),
        (["10.0.0.0/8"], []),
        (["192.168.0.0/24", "10.244.3.0/24"], ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]),
    ],
)
def test_blocks_that_overlap_nothing_held_are_free_lowest_first(held, free):
    assert list(free_pod_cidrs(PODS, held)) == free


@pytest.mark.parametrize(
    ("network", "length"),
    [
        ("10.244.0.0/16", 15),
        ("10.0.0.0/8", 25),
        ("10.244.0.0/16", 31),
        ("10.244.0.1/16", 24),
        ("fd00::/48", 64),
        ("", 24),
    ],
)
def test_networks_that_cannot_be_split_so_are_refused(network, length):
    with pytest.raises(ValueError, match=r"cluster-cidr|node-cidr-mask-size"):
        pod_network(network, length)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--allocate-node-cidrs"], "--allocate-node-cidrs: cluster-cidr '' is no IPv4 network"),
        (["--cluster-cidr=10.244.0.0/16"], "--cluster-cidr has no effect without --allocate-node-cidrs"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, complaint, capsys):
    with pytest.raises(SystemExit):
        main(["--store=sqlite::memory:", *flags])
    assert complaint in capsys.readouterr().err


@contextlib.asynccontextmanager
async def cluster():
    ranges = Ranges(networks=(ip_network("10.96.0.0/16"),))
    settings = Settings(store="sqlite::memory:", ranges=ranges, port=0, pod_network=PODS)
    async with running(settings, SystemClock()) as url, KubeClient(url) as client:
        yield client


async def make(client, name, **spec):
    await client.create(NODES, "", {"metadata": {"name": name}, "spec": spec})


async def cidrs(client, *names):
    found = [await client.get(NODES, "", name) for name in names]
    return [node["spec"].get("podCIDR", "") for node in found]


async def test_every_node_gets_a_block_of_its_own_and_keeps_it():
    async with cluster() as client:
        await make(client, "by-hand", podCIDR="10.244.1.0/24")
        await asyncio.gather(*(make(client, f"n{number}") for number in range(4)))

        async def three():
            return sorted(await cidrs(client, "n0", "n1", "n2", "n3"))

        # One block is taken by hand, so one of the four nodes waits, until another one goes.
        used_up = ["", "10.244.0.0/24", "10.244.2.0/24", "10.244.3.0/24"]
        await eventually(lambda: _is(three, used_up))
        assert await cidrs(client, "by-hand") == ["10.244.1.0/24"]
        await client.delete(NODES, "", "by-hand")
        await eventually(lambda: _is(three, [*used_up[1:2], "10.244.1.0/24", *used_up[2:]]))


async def _is(ask, wanted):
    return await ask() == wanted
