"""Gives every Node a podCIDR, as kube-controller-manager does with --allocate-node-cidrs.

A Node keeps what it has, and its block is free again when it is deleted. A network that is used up is a state:
said once, and looked at again whenever a Node goes.
"""

import asyncio
import logging
from collections.abc import Mapping

from kubeproxy.clock import Clock
from kubeproxy.controllers.election import Guard, unguarded
from kubeproxy.controllers.podcidrs import PodNetwork, free_pod_cidrs
from kubeproxy.model.decode import decode_node
from kubeproxy.model.objects import Node
from kubeproxy.store.base import StoreError
from kubeproxy.store.informer import Informer, Key
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import NODES

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class NodeIpam:
    """Run `run` as a task, on one server at a time; ``guard`` is asked before each write."""

    def __init__(self, client: KubeClient, pods: PodNetwork, *, clock: Clock, guard: Guard = unguarded) -> None:
        self.failures = 0
        self._client = client
        self._pods = pods
        self._clock = clock
        self._guard = guard
        self._given: dict[str, str] = {}
        """What was written and has not been seen yet: the next node must not get it too."""
        self._wake = asyncio.Event()
        self._complaint = ""
        self._nodes = Informer[Node](
            client,
            NODES,
            decode_node,
            clock=clock,
            on_change=self._changed,
            on_synced=self._wake.set,
        )

    async def run(self) -> None:
        """Give blocks until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run())
            tasks.create_task(self._give())

    def _changed(self, changes: Mapping[Key, Node | None]) -> None:
        for (_, name), node in changes.items():
            if node is None or node.pod_cidrs:
                self._given.pop(name, None)
        self._wake.set()

    async def _give(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._nodes.synced:
                continue
            try:
                await self._give_all()
            except StoreError as error:
                self.failures += 1
                self._complain(f"node podCIDRs are late, retrying: {error}")
                await self._clock.sleep(RETRY_SECONDS)
                self._wake.set()

    async def _give_all(self) -> None:
        nodes = self._nodes.cache.values()
        waiting = sorted(node.name for node in nodes if not node.pod_cidrs and node.name not in self._given)
        if not waiting:
            return
        held = [*self._given.values(), *(cidr for node in nodes for cidr in node.pod_cidrs)]
        free = free_pod_cidrs(self._pods, held)
        for name in waiting:
            block = next(free, "")
            if not block:
                self._complain(f"no block of {self._pods.network} is free for node {name}: CIDRNotAvailable")
                return
            await self._write(name, block)
        self._complaint = ""

    async def _write(self, name: str, block: str) -> None:
        self._guard()
        try:
            await self._client.patch(NODES, "", name, {"spec": {"podCIDR": block, "podCIDRs": [block]}})
        except ApiError as error:
            # It is gone, or somebody gave it one: the informer is about to say so.
            if error.code not in (404, 422):
                raise
            log.debug("node %s takes no podCIDR: %s", name, error)
        else:
            self._given[name] = block
            log.info("node %s has the podCIDR %s", name, block)

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning("%s", complaint)
            self._complaint = complaint
