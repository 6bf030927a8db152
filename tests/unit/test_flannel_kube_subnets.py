"""The subnet manager over Node objects, against the API server in process; pauses are stepped by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from flannel.kube_subnets import KubeSubnetManager, NoNode, find_node
from flannel.lease import Lease, LeaseAttrs, encode_vtep
from flannel.manager import LeaseLost
from flannel.netconf import NetConfError, parse_netconf
from flannel.nodes import annotation_names, lease_patch
from kubeproxy.clock import ManualClock
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import NODES
from tests.apiserver_bed import PODS, Bed, api_bed, pod

pytestmark = pytest.mark.unit

NAMES = annotation_names("flannel.alpha.coreos.com")
NETCONF = parse_netconf(b'{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}')
NODES_PATH = "/api/v1/nodes"
MERGE = {"Content_Type": "application/merge-patch+json"}


def attrs(number: int, mac: str = "0e:00:00:00:00:0") -> LeaseAttrs:
    data = encode_vtep(1, f"{mac}{number}")
    return LeaseAttrs(public_ip=IPv4Address(f"1.2.3.{number}"), backend_type="vxlan", backend_data=data)


class Cluster:
    """An API server with one manager of node n1; nodes n2, n3 … have 10.244.2.0/24, 10.244.3.0/24 …"""

    def __init__(self, bed: Bed, client: KubeClient, net_conf: Path) -> None:
        self.bed = bed
        self.client = client
        self.net_conf = net_conf
        self.clock = ManualClock()
        self.peers: dict[str, str] = {}
        """What the manager last said of the others: {subnet: public address}."""

    def manager(self, node: str = "n1") -> KubeSubnetManager:
        return KubeSubnetManager(
            self.client,
            node=node,
            names=NAMES,
            net_conf=self.net_conf,
            set_network_available=True,
            clock=self.clock,
        )

    async def add_node(self, number: int, cidr: str | None = "") -> None:
        spec = {} if cidr is None else {"podCIDR": cidr or f"10.244.{number}.0/24"}
        await self.bed.made(NODES_PATH, {"metadata": {"name": f"n{number}"}, "spec": spec})

    async def publish(self, number: int, **attributes: Any) -> None:
        patch = lease_patch(NAMES, attrs(number, **attributes))
        await self.client.patch(NODES, "", f"n{number}", patch)

    async def patch(self, number: int, body: dict[str, Any]) -> None:
        code, answer = await self.bed.call("PATCH", f"{NODES_PATH}/n{number}", body, **MERGE)
        assert code == 200, answer

    async def annotate(self, number: int, **notes: str | None) -> None:
        named = {getattr(NAMES, name): value for name, value in notes.items()}
        await self.patch(number, {"metadata": {"annotations": named}})

    async def delete(self, number: int) -> None:
        await self.client.delete(NODES, "", f"n{number}")

    async def annotations(self, number: int) -> dict[str, str]:
        found = await self.client.get(NODES, "", f"n{number}")
        return {key.rpartition("/")[2]: text for key, text in found["metadata"].get("annotations", {}).items()}

    async def conditions(self, number: int) -> dict[str, str]:
        found = await self.client.get(NODES, "", f"n{number}")
        return {one["type"]: f"{one['status']} {one['reason']}" for one in found["status"].get("conditions", ())}

    @asynccontextmanager
    async def running(self, manager: KubeSubnetManager) -> AsyncIterator["asyncio.Task[None]"]:
        """Acquire n1's lease, then follow the nodes and keep it published; yields the keeping task."""
        await manager.acquire(NETCONF, attrs(1))

        def note(leases: tuple[Lease, ...]) -> None:
            self.peers = {str(lease.subnet): str(lease.attrs.public_ip) for lease in leases}

        tasks = [asyncio.create_task(manager.follow(note)), asyncio.create_task(manager.renew())]
        try:
            await self.until(lambda: manager.synced)
            yield tasks[1]
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError, LeaseLost):
                    await task

    async def until(self, condition: Callable[[], Any]) -> None:
        """Let requests be answered and the manager's pauses pass until something holds."""
        for _ in range(600):
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await self.clock.step(1)
            await asyncio.sleep(0.005)
        raise AssertionError("it never came to hold")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    net_conf = tmp_path / "net-conf.json"
    net_conf.write_text('{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}')
    async with api_bed() as bed, KubeClient(str(bed.client.make_url("")).rstrip("/")) as client:
        yield Cluster(bed, client, net_conf)


async def test_a_lease_is_published_in_flannels_annotations(cluster):
    await cluster.add_node(1)
    await cluster.annotate(1, node_public_ip="9.9.9.1")
    manager = cluster.manager()
    assert await manager.public_ip() == IPv4Address("9.9.9.1")
    assert (await manager.netconf()).network == NETCONF.network
    assert await manager.standing_lease(attrs(1).public_ip) is None
    lease = await manager.acquire(NETCONF, attrs(1))
    assert lease == manager.own
    assert str(lease.subnet) == "10.244.1.0/24"
    assert await cluster.annotations(1) == {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": '{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}',
        "public-ip": "1.2.3.1",
        "node-public-ip": "9.9.9.1",
    }
    assert await cluster.conditions(1) == {}, "the network is up when the devices stand, not before"
    await manager.mark_up()
    assert await cluster.conditions(1) == {"NetworkUnavailable": "False FlannelIsUp"}


async def test_a_start_finds_the_mac_that_was_published_before(cluster):
    await cluster.add_node(1)
    await cluster.manager().acquire(NETCONF, attrs(1))
    standing = await cluster.manager().standing_lease(attrs(1).public_ip)
    assert standing is not None
    assert standing.attrs == attrs(1)


async def test_whatever_is_not_there_yet_is_waited_for_and_named(cluster):
    cluster.net_conf.write_text("{")
    manager = cluster.manager()
    configuring = asyncio.create_task(manager.netconf())
    await cluster.until(lambda: "no valid JSON" in manager.waiting_for)
    cluster.net_conf.write_text('{"Network":"10.244.0.0/16"}')
    await cluster.until(configuring.done)
    assert manager.waiting_for == ""

    acquiring = asyncio.create_task(manager.acquire(NETCONF, attrs(1)))
    await cluster.until(lambda: "'n1' is not registered yet" in manager.waiting_for)
    await cluster.add_node(1, None)
    await cluster.until(lambda: "pod cidr not assigned yet" in manager.waiting_for)
    await cluster.patch(1, {"spec": {"podCIDR": "10.244.1.0/24"}})
    await cluster.until(acquiring.done)
    assert str(acquiring.result().subnet) == "10.244.1.0/24"
    assert manager.waiting_for == ""


async def test_a_pod_cidr_outside_of_the_network_ends_the_daemon(cluster):
    await cluster.add_node(1, "10.9.1.0/24")
    with pytest.raises(NetConfError, match=r"10\.244\.0\.0/16 .* does not contain the pod cidr 10\.9\.1\.0/24"):
        await cluster.manager().acquire(NETCONF, attrs(1))


async def test_other_nodes_are_followed(cluster):
    for number in (1, 2, 3):
        await cluster.add_node(number)
    await cluster.publish(2)
    manager = cluster.manager()
    async with cluster.running(manager):
        await cluster.until(lambda: cluster.peers == {"10.244.2.0/24": "1.2.3.2"})
        await cluster.publish(3)
        await cluster.until(lambda: cluster.peers == {"10.244.2.0/24": "1.2.3.2", "10.244.3.0/24": "1.2.3.3"})
        await cluster.annotate(2, public_ip="1.2.3.9")
        await cluster.until(lambda: cluster.peers["10.244.2.0/24"] == "1.2.3.9")
        await cluster.annotate(2, public_ip="nonsense")
        await cluster.until(lambda: "10.244.2.0/24" not in cluster.peers)
        await cluster.delete(3)
        await cluster.until(lambda: cluster.peers == {})
        await cluster.publish(2)
        await cluster.until(lambda: cluster.peers == {"10.244.2.0/24": "1.2.3.2"})


async def test_annotations_that_somebody_changed_are_published_again(cluster):
    await cluster.add_node(1)
    manager = cluster.manager()
    async with cluster.running(manager):
        await cluster.annotate(1, backend_data=None, managed="false")

        async def restored() -> bool:
            said = await cluster.annotations(1)
            return said.get("backend-data") == '{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}'

        await cluster.until(restored)
        await cluster.annotate(1, public_ip_overwrite="7.7.7.7")

        async def overwritten() -> bool:
            return (await cluster.annotations(1))["public-ip"] == "7.7.7.7"

        await cluster.until(overwritten)
        assert manager.own is not None
        assert str(manager.own.attrs.public_ip) == "7.7.7.7"


async def test_a_node_registered_anew_is_published_anew(cluster):
    await cluster.add_node(1)
    manager = cluster.manager()
    async with cluster.running(manager):
        await manager.mark_up()
        await cluster.delete(1)
        await cluster.add_node(1, None)
        await cluster.until(lambda: "pod cidr not assigned yet" in manager.waiting_for)
        await cluster.patch(1, {"spec": {"podCIDR": "10.244.1.0/24"}})

        async def published() -> bool:
            return "NetworkUnavailable" in await cluster.conditions(1)

        await cluster.until(published)
        assert (await cluster.annotations(1))["public-ip"] == "1.2.3.1"


async def test_another_pod_cidr_for_this_node_ends_the_daemon(cluster):
    await cluster.add_node(1)
    async with cluster.running(cluster.manager()) as keeping:
        await cluster.delete(1)
        await cluster.add_node(1, "10.244.77.0/24")
        await cluster.until(keeping.done)
        with pytest.raises(LeaseLost, match=r"has the pod cidr 10\.244\.77\.0/24 now, not 10\.244\.1\.0/24"):
            keeping.result()


async def test_the_nodes_name_comes_from_the_environment_or_the_pod(cluster):
    find = find_node
    assert await find({"NODE_NAME": "n7"}, cluster.client, cluster.clock) == "n7"
    await cluster.bed.made(PODS, pod("flannel-x", nodeName="n1"))
    environment = {"POD_NAME": "flannel-x", "POD_NAMESPACE": "default"}
    assert await find(environment, cluster.client, cluster.clock) == "n1"
    with pytest.raises(NoNode, match="must be set"):
        await find({"POD_NAME": "flannel-x"}, cluster.client, cluster.clock)
    await cluster.bed.made(PODS, pod("flannel-y"))
    with pytest.raises(NoNode, match="node name not present in pod spec 'default/flannel-y'"):
        await find(environment | {"POD_NAME": "flannel-y"}, cluster.client, cluster.clock)
