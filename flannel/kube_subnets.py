"""A node's subnet by the Kubernetes API (-kube-subnet-mgr): the subnet is its podCIDR, the lease its annotations.

Flannel's schema and fields, so both may run in one cluster, node by node. What flannel's issues taught:

* a node without a podCIDR is waited for, and /readyz says so; flannel ends, and the pod restarts until
  somebody reads why its log ends with "pod cidr not assigned";
* annotations that went away (a Node deleted and registered anew) or that an administrator changed
  (public-ip-overwrite) are published again at once; flannel publishes at its start only;
* NetworkUnavailable=False is said when the node can carry packets, not before.

The own podCIDR can only change with a new Node object: the pods here then have addresses that belong
elsewhere, and the daemon ends (`LeaseLost`) to be started anew.

Requests, and so the rights it needs: list and watch nodes, patch nodes/status.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from flannel.allocation import changes_between
from flannel.backoff import Backoff
from flannel.lease import Lease, LeaseAttrs, LeaseError
from flannel.manager import LeaseLost
from flannel.netconf import NetConf, NetConfError, parse_netconf
from flannel.nodes import (
    AnnotationNames,
    NodeRecord,
    decode_node_record,
    given_address,
    is_published,
    lease_patch,
    network_available_patch,
    node_lease,
    pod_subnet,
    published_attrs,
)
from kubeproxy.clock import Clock
from kubeproxy.model.decode import DecodeError
from kubeproxy.store.base import StoreError
from kubeproxy.store.informer import Informer, Key
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import NODES, PODS

log = logging.getLogger(__name__)

T = TypeVar("T")

STRATEGIC_PATCH = "application/strategic-merge-patch+json"

REPUBLISH_SECONDS = 1.0
"""Two writers that disagree about a node's annotations cost one patch in this time."""


class NoNode(Exception):
    """Nothing says which Node this machine is."""


class NotYet(Exception):
    """What is asked for is not there yet; the text says what would bring it."""


class KubeSubnetManager:
    """See `flannel.manager.SubnetManager`. ``node`` is the name of this machine's Node."""

    def __init__(
        self,
        client: KubeClient,
        *,
        node: str,
        names: AnnotationNames,
        net_conf: Path,
        set_network_available: bool,
        clock: Clock,
    ) -> None:
        self.own: Lease | None = None
        self.waiting_for = ""
        self._client = client
        self._node = node
        self._names = names
        self._net_conf = net_conf
        self._set_network_available = set_network_available
        self._clock = clock
        self._attrs: LeaseAttrs | None = None
        self._pod_cidrs: tuple[str, ...] = ()
        self._marked_up = False
        self._own_changed = asyncio.Event()
        self._leases: dict[str, Lease] = {}
        self._complaints: dict[str, str] = {}
        self._on_change: Callable[[tuple[Lease, ...]], None] = lambda leases: None
        self._nodes = Informer[NodeRecord](
            client,
            NODES,
            partial(decode_node_record, names),
            clock=clock,
            on_change=self._nodes_changed,
            on_synced=self._emit,
        )

    @property
    def synced(self) -> bool:
        """See `SubnetManager.synced`."""
        return self._nodes.synced and self._nodes.connected

    # --- before the overlay runs -------------------------------------------------------------------------

    async def public_ip(self) -> IPv4Address | None:
        """Return the annotation node-public-ip; one that is no address is left aside."""
        record = await self._until_there("reading this node", self._read_own)
        try:
            return given_address(record)
        except LeaseError as error:
            log.warning("annotation %s is ignored: %s", self._names.node_public_ip, error)
            return None

    async def netconf(self) -> NetConf:
        """Return what the file says, waiting until there is a valid one: a ConfigMap's volume follows edits."""

        async def read() -> NetConf:
            try:
                return parse_netconf(await asyncio.to_thread(self._net_conf.read_bytes))
            except (OSError, NetConfError) as error:
                raise NotYet(f"{self._net_conf}: {error}") from None

        return await self._until_there("reading the network configuration", read)

    async def standing_lease(self, public_ip: IPv4Address) -> Lease | None:
        """Return what this node published before, which is where a VXLAN device made anew finds its MAC."""
        try:
            return node_lease(await self._until_there("reading this node", self._read_own))
        except LeaseError as error:
            log.warning("what this node published before is of no use: %s", error)
            return None

    async def acquire(self, netconf: NetConf, attrs: LeaseAttrs, previous: IPv4Network | None = None) -> Lease:
        """Wait for the podCIDR and publish the lease. Raises `NetConfError` for one outside of the Network."""

        async def publish() -> Lease:
            record = await self._read_own()
            subnet = _assigned(record)
            if not subnet.subnet_of(netconf.network):
                raise NetConfError(
                    f"the Network {netconf.network} of {self._net_conf} does not contain the pod cidr {subnet} "
                    f"of node {self._node!r}: make it what kube-controller-manager has as --cluster-cidr"
                )
            return await self._publish(record, subnet, attrs)

        lease = await self._until_there("publishing this node's lease", publish)
        log.info("subnet %s is this node's pod cidr", lease.subnet)
        self._attrs = attrs
        return lease

    async def _until_there(self, activity: str, attempt: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff(activity, self._clock, log)
        while True:
            try:
                found = await attempt()
            except (StoreError, NotYet, LeaseError, DecodeError) as error:
                self.waiting_for = str(error)
                await backoff.wait(error)
            else:
                backoff.reset()
                self.waiting_for = ""
                return found

    async def _read_own(self) -> NodeRecord:
        listing = await self._client.list(NODES, field_selector=f"metadata.name={self._node}")
        if not listing.items:
            raise NotYet(f"node {self._node!r} is not registered yet")
        return decode_node_record(self._names, listing.items[0])

    def _to_publish(self, record: NodeRecord, attrs: LeaseAttrs) -> LeaseAttrs:
        try:
            return published_attrs(record, attrs)
        except LeaseError as error:
            self._complain(self._names.public_ip_overwrite, f"is ignored: {error}")
            return attrs

    async def _publish(self, record: NodeRecord, subnet: IPv4Network, attrs: LeaseAttrs) -> Lease:
        published = self._to_publish(record, attrs)
        await self._patch_status(lease_patch(self._names, published))
        self._pod_cidrs = record.pod_cidrs
        self.own = Lease(subnet=subnet, attrs=published, key=self._node)
        return self.own

    async def _patch_status(self, patch: dict[str, Any]) -> None:
        await self._client.patch(NODES, "", self._node, patch, subresource="status", content_type=STRATEGIC_PATCH)

    # --- while it runs -----------------------------------------------------------------------------------

    async def mark_up(self) -> None:
        """Set the node's condition NetworkUnavailable to False, and again when its Node is registered anew."""
        if not self._set_network_available:
            return

        async def patch() -> None:
            await self._patch_status(network_available_patch(self._clock.wall()))

        await self._until_there("saying that this node's network is up", patch)
        self._marked_up = True

    async def renew(self) -> None:
        """Publish the lease again whenever this node's annotations say something else, until cancelled."""
        while True:
            await self._own_changed.wait()
            self._own_changed.clear()
            record = self._nodes.cache.get(("", self._node))
            if record is None:
                log.warning("node %r is gone from the API; its pods stay connected here", self._node)
            elif self._differs(record):
                await self._until_there("publishing this node's lease anew", self._republish)
                await self._clock.sleep(REPUBLISH_SECONDS)

    def _differs(self, record: NodeRecord) -> bool:
        if self.own is None or self._attrs is None:
            return False
        wanted = self._to_publish(record, self._attrs)
        return record.pod_cidrs != self._pod_cidrs or not is_published(record, wanted)

    async def _republish(self) -> None:
        assert self.own is not None
        assert self._attrs is not None
        record = await self._read_own()
        subnet = _assigned(record)
        if subnet != self.own.subnet:
            raise LeaseLost(f"node {self._node!r} has the pod cidr {subnet} now, not {self.own.subnet}")
        log.info("the annotations of node %r changed; publishing the lease again", self._node)
        was_new = not record.managed
        await self._publish(record, subnet, self._attrs)
        if was_new and self._marked_up:
            await self._patch_status(network_available_patch(self._clock.wall()))
        self._emit()

    async def follow(self, on_change: Callable[[tuple[Lease, ...]], None]) -> None:
        """See `SubnetManager.follow`."""
        self._on_change = on_change
        await self._nodes.run()

    def _nodes_changed(self, changes: Mapping[Key, NodeRecord | None]) -> None:
        before: dict[str, Lease] = {}
        now: dict[str, Lease] = {}
        for (_, name), record in changes.items():
            if name == self._node:
                self._own_changed.set()
                continue
            if name in self._leases:
                before[name] = self._leases.pop(name)
            lease = self._lease_of(name, record)
            if lease is not None:
                now[name] = lease
        self._leases |= now
        news = changes_between(before, now)
        for change in news:
            log.info("%s", change)
        if news and self._nodes.synced:
            self._emit()

    def _lease_of(self, name: str, record: NodeRecord | None) -> Lease | None:
        try:
            lease = node_lease(record) if record is not None else None
        except LeaseError as error:
            self._complain(name, f"has no usable lease: {error}")
            return None
        self._complaints.pop(name, None)
        return lease

    def _emit(self) -> None:
        self._on_change(tuple(self._leases.values()))

    def _complain(self, about: str, complaint: str) -> None:
        if self._complaints.get(about) != complaint:
            log.warning("%s %s", about, complaint)
            self._complaints[about] = complaint


def _assigned(record: NodeRecord) -> IPv4Network:
    """Return a node's podCIDR. Raises `NotYet`, or `LeaseError` when what it has cannot be used."""
    subnet = pod_subnet(record)
    if subnet is None:
        raise NotYet(
            f"node {record.name!r} pod cidr not assigned yet: kube-controller-manager gives one with "
            "--allocate-node-cidrs and --cluster-cidr"
        )
    return subnet


async def find_node(environment: Mapping[str, str], client: KubeClient, clock: Clock) -> str:
    """Return the name of this machine's Node, by NODE_NAME or by the Pod that POD_NAME and POD_NAMESPACE name.

    Raises `NoNode`. Only the second way needs the right to get pods.
    """
    if environment.get("NODE_NAME"):
        return environment["NODE_NAME"]
    name, namespace = environment.get("POD_NAME", ""), environment.get("POD_NAMESPACE", "")
    if not name or not namespace:
        raise NoNode("-kube-subnet-mgr: env variable NODE_NAME, or POD_NAME and POD_NAMESPACE, must be set")
    backoff = Backoff("reading this pod", clock, log)
    while True:
        try:
            pod = await client.get(PODS, namespace, name)
        except StoreError as error:
            await backoff.wait(error)
            continue
        node = (pod.get("spec") or {}).get("nodeName")
        if not node:
            raise NoNode(f"node name not present in pod spec '{namespace}/{name}'")
        return str(node)
