"""Registering a node and keeping it alive in the API: Node object, its status, a Lease renewed every ten seconds.

A node is registered at once, not Ready; it becomes Ready, and gets its pod CIDR, when the overlay has a lease for
it. An API server that is away is asked again at the next beat, or sooner as long as the node is not Ready.
"""

import asyncio
import logging
import os
import platform
from pathlib import Path
from typing import Any

from kubeproxy import __version__
from kubeproxy.lab.node import Node
from kubeproxy.lab.nodestatus import (
    HEARTBEAT_SECONDS,
    LEASE_NAMESPACE,
    Machine,
    lease_object,
    node_object,
    node_status,
)
from kubeproxy.model.timestamps import micro_timestamp, timestamp
from kubeproxy.store.base import StoreError
from kubeproxy.store.kube import ApiError
from kubeproxy.store.resources import LEASES, NODES

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
STATUS_BEATS = 30
"""Every how many heartbeats the status is written anew although nothing changed (upstream: 5 minutes)."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def this_machine() -> Machine:
    """Read the facts of the machine that carries the lab."""
    release = platform.freedesktop_os_release()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_kib=pages * page // 1024,
        kernel=platform.release(),
        os_image=release.get("PRETTY_NAME", "Linux"),
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        version=__version__,
    )


class Registration:
    """Speaks for one node."""

    def __init__(self, node: Node, machine: Machine) -> None:
        self._node = node
        self._machine = machine
        self._cidr = ""
        self._uid = ""

    async def run(self) -> None:
        """Register, wait for the overlay, stay alive, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._node.subnet())
            await self._until_written()
            self._cidr = (await waiting).cidr
            await self._until_written()
            log.info("node %s is Ready, its pods are in %s", self._node.name, self._cidr)
            beats = 0
            while True:
                await self._beat(write_status=beats % STATUS_BEATS == 0)
                beats += 1
                await self._node.clock.sleep(HEARTBEAT_SECONDS)

    async def _until_written(self) -> None:
        complained = False
        while True:
            try:
                await self._write_node()
                return
            except StoreError as error:
                if not complained:
                    log.warning("node %s cannot be registered, retrying: %s", self._node.name, error)
                complained = True
            await self._node.clock.sleep(RETRY_SECONDS)

    async def _beat(self, *, write_status: bool) -> None:
        try:
            if write_status:
                await self._write_node()
            await self._renew_lease()
        except StoreError as error:
            log.warning("heartbeat of node %s is late: %s", self._node.name, error)

    async def _write_node(self) -> None:
        node = self._node
        found = await self._registered()
        self._uid = found["metadata"]["uid"]
        if self._cidr and found.get("spec", {}).get("podCIDR") != self._cidr:
            spec = {"podCIDR": self._cidr, "podCIDRs": [self._cidr]}
            await node.client.patch(NODES, "", node.name, {"spec": spec})
        conditions = found.get("status", {}).get("conditions") or ()
        previous = {
            each["type"]: (each.get("status", ""), each.get("lastTransitionTime") or "") for each in conditions
        }
        status = node_status(
            node.name,
            node.address,
            self._machine,
            ready=bool(self._cidr),
            now=timestamp(node.clock.wall()),
            previous=previous,
        )
        await node.client.patch(NODES, "", node.name, {"status": status}, subresource="status")

    async def _registered(self) -> dict[str, Any]:
        node = self._node
        try:
            return await node.client.get(NODES, "", node.name)
        except ApiError as error:
            if error.code != 404:
                raise
        return await node.client.create(NODES, "", node_object(node.name, node.address))

    async def _renew_lease(self) -> None:
        node = self._node
        now = micro_timestamp(node.clock.wall())
        try:
            await node.client.patch(LEASES, LEASE_NAMESPACE, node.name, {"spec": {"renewTime": now}})
        except ApiError as error:
            if error.code != 404:
                raise
            await node.client.create(LEASES, LEASE_NAMESPACE, lease_object(node.name, self._uid, now))
