"""The lab's control loops in one process: Deployments, ReplicaSets, the scheduler.

    python -m kubeproxy.lab.controllers --kubeconfig FILE

What flows in: Deployments, ReplicaSets, Pods and Nodes, one informer each. What flows out: the writes that the
planners ask for (deployments.py, replicasets.py, scheduler.py), one object after the other. Nothing is
written before all informers have synced. What this process has made and its informers have not shown yet counts as
there (`Unseen`), so that no pod is made twice; whatever is refused is planned anew from the newer copies.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from kubeproxy import logs
from kubeproxy.clock import Clock, SystemClock
from kubeproxy.controllers.objects import Key, Node, Pod, decode_node, decode_pod
from kubeproxy.controllers.reconcilers import generated_name
from kubeproxy.controllers.unseen import Unseen
from kubeproxy.controllers.workqueue import WorkQueue
from kubeproxy.lab.access import add_arguments, api_access
from kubeproxy.lab.deployments import plan_deployment
from kubeproxy.lab.replicasets import plan_replica_set, pod_from
from kubeproxy.lab.scheduler import place, stranded
from kubeproxy.lab.workloads import (
    REVISION,
    Deployment,
    ReplicaSet,
    decode_deployment,
    decode_replica_set,
    is_owned,
    status_patch,
)
from kubeproxy.model.decode import DecodeError
from kubeproxy.model.timestamps import timestamp
from kubeproxy.store.base import StoreError, Unavailable
from kubeproxy.store.credentials import Access
from kubeproxy.store.informer import Informer
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import DEPLOYMENTS, NODES, PODS, REPLICA_SETS, Resource

log = logging.getLogger(__name__)

T = TypeVar("T")

Task = tuple[str, Key]
"""What to look at: a kind, or the word below, and an object."""
SCHEDULE: Task = ("schedule", ("", ""))


class Controllers:
    """All loops of one cluster."""

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._queue: WorkQueue[Task] = WorkQueue(clock=clock)
        self._unsynced = 4
        self._ready = asyncio.Event()
        self._new_sets: Unseen[ReplicaSet] = Unseen(clock.now)
        self._new_pods: Unseen[Pod] = Unseen(clock.now)
        self._deployments = self._follow(DEPLOYMENTS, decode_deployment, self._deployments_changed)
        self._sets = self._follow(REPLICA_SETS, decode_replica_set, self._sets_changed)
        self._pods = self._follow(PODS, decode_pod, self._pods_changed)
        self._nodes = self._follow(NODES, decode_node, self._nodes_changed)
        self._pod_owners: dict[Key, Key] = {}
        self._going: dict[Key, str] = {}
        """Pods that were told to go and whose informer does not know yet, by uid."""
        self._complained: set[Task] = set()

    def _follow(
        self,
        resource: Resource,
        decode: Callable[[bytes], T],
        on_change: Callable[[Mapping[Key, T | None]], None],
    ) -> Informer[T]:
        return Informer(
            self._client, resource, decode, clock=self._clock, on_change=on_change, on_synced=self._one_synced
        )

    def _one_synced(self) -> None:
        self._unsynced -= 1
        if not self._unsynced:
            self._ready.set()

    async def run(self) -> None:
        """Follow and write until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for informer in (self._deployments, self._sets, self._pods, self._nodes):
                    tasks.create_task(informer.run())
                await self._ready.wait()
                while True:
                    await self._attend(await self._queue.take())
        finally:
            self._queue.close()

    async def _attend(self, task: Task) -> None:
        kind, key = task
        try:
            match kind:
                case "Deployment":
                    await self._deployment(key)
                case "ReplicaSet":
                    await self._replica_set(key)
                case _:
                    await self._remove_stranded()
                    await self._schedule()
        except (StoreError, DecodeError) as error:
            lost_race = isinstance(error, ApiError) and error.code in (404, 409)
            if not lost_race and not isinstance(error, Unavailable) and task not in self._complained:
                self._complained.add(task)
                log.warning("%s %s/%s is late, retrying: %s", kind, *key, error)
            self._queue.failed(task)
        else:
            self._queue.done(task)
            self._complained.discard(task)

    def _deployments_changed(self, changes: Mapping[Key, Deployment | None]) -> None:
        for key in changes:
            self._queue.add(("Deployment", key))

    def _sets_changed(self, changes: Mapping[Key, ReplicaSet | None]) -> None:
        self._new_sets.seen(changes)
        for key, found in changes.items():
            self._queue.add(("ReplicaSet", key))
            if found is not None and (controller := found.metadata.controller) is not None:
                self._queue.add(("Deployment", (key[0], controller.name)))

    def _pods_changed(self, changes: Mapping[Key, Pod | None]) -> None:
        self._new_pods.seen(changes)
        for key, pod in changes.items():
            if pod is None or not pod.is_active or pod.metadata.uid != self._going.get(key):
                # An older event of a pod that was told to go does not bring it back.
                self._going.pop(key, None)
            if pod is not None and (controller := pod.metadata.controller) is not None:
                self._pod_owners[key] = (key[0], controller.name)
            if key in self._pod_owners:
                self._queue.add(("ReplicaSet", self._pod_owners[key]))
            if pod is None:
                self._pod_owners.pop(key, None)
        self._queue.add(SCHEDULE)

    def _nodes_changed(self, _: Mapping[Key, Node | None]) -> None:
        self._queue.add(SCHEDULE)

    def _all_sets(self) -> Iterable[ReplicaSet]:
        yield from self._sets.cache.values()
        yield from self._new_sets.over(self._sets.cache).values()

    def _all_pods(self) -> Iterable[Pod]:
        yield from self._pods.cache.values()
        yield from self._new_pods.over(self._pods.cache).values()

    async def _deployment(self, key: Key) -> None:
        deployment = self._deployments.cache.get(key)
        if deployment is None:
            return
        meta = deployment.metadata
        owned = [each for each in self._all_sets() if is_owned(each.metadata, meta.uid)]
        plan = plan_deployment(deployment, owned, self._clock.wall())
        if plan.create is not None:
            made = await self._client.create(REPLICA_SETS, meta.namespace, plan.create)
            fresh = decode_replica_set(msgspec.json.encode(made))
            self._new_sets.made(fresh.metadata.key, fresh)
            log.info("deployment %s/%s: scaled up replica set %s", *key, fresh.metadata.name)
        for name, patch in plan.patches:
            await self._client.patch(REPLICA_SETS, meta.namespace, name, patch)
        for name in plan.deletes:
            await self._client.delete(REPLICA_SETS, meta.namespace, name)
        if plan.revision:
            note = {"metadata": {"uid": meta.uid, "annotations": {REVISION: plan.revision}}}
            await self._client.patch(DEPLOYMENTS, *key, note)
        if plan.status is not None:
            await self._client.patch(DEPLOYMENTS, *key, status_patch(meta, plan.status), subresource="status")
        if plan.again_after is not None:
            self._queue.add_after(("Deployment", key), plan.again_after)

    async def _replica_set(self, key: Key) -> None:
        replica_set = self._sets.cache.get(key)
        if replica_set is None:
            return
        meta = replica_set.metadata
        owned = [
            pod
            for pod in self._all_pods()
            if is_owned(pod.metadata, meta.uid) and self._going.get(pod.metadata.key) != pod.metadata.uid
        ]
        plan = plan_replica_set(replica_set, owned, self._clock.wall())
        for _ in range(plan.creates):
            await self._create_pod(replica_set)
        doomed = {pod.metadata.name: pod for pod in owned}
        for name in plan.deletes:
            await self._client.delete(PODS, meta.namespace, name)
            self._going[meta.namespace, name] = doomed[name].metadata.uid
        if plan.status is not None:
            await self._client.patch(REPLICA_SETS, *key, status_patch(meta, plan.status), subresource="status")
        if plan.again_after is not None:
            self._queue.add_after(("ReplicaSet", key), plan.again_after)

    async def _create_pod(self, replica_set: ReplicaSet) -> None:
        meta = replica_set.metadata
        body = pod_from(replica_set, generated_name(f"{meta.name}-"))
        pod = decode_pod(msgspec.json.encode(await self._client.create(PODS, meta.namespace, body)))
        if pod.metadata.key not in self._pods.cache:
            self._new_pods.made(pod.metadata.key, pod)
        self._pod_owners[pod.metadata.key] = meta.key

    async def _schedule(self) -> None:
        placement = place(self._all_pods(), list(self._nodes.cache.values()))
        for pod, node in placement.bindings:
            await self._bind(pod, node)
        for pod, why in placement.homeless:
            await self._tell_homeless(pod, why)

    async def _bind(self, pod: Pod, node: str) -> None:
        namespace, name = pod.metadata.key
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._client.create(PODS, namespace, body, name=name, subresource="binding")
        # The next plan must count it, whether the informer has shown the binding by then or not.
        bound = msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=node))
        if pod.metadata.key in self._pods.cache:
            self._pods.cache[pod.metadata.key] = bound
        else:
            self._new_pods.made(pod.metadata.key, bound)

    async def _tell_homeless(self, pod: Pod, why: str) -> None:
        standing = next((each for each in pod.status.conditions or () if each.type == "PodScheduled"), None)
        if standing is not None and standing.message == why:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": why,
            "lastTransitionTime": timestamp(self._clock.wall()),
        }
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
        await self._client.patch(PODS, *pod.metadata.key, patch, subresource="status")

    async def _remove_stranded(self) -> None:
        nodes = {name for _, name in self._nodes.cache}
        for pod in list(stranded(self._pods.cache.values(), nodes)):
            await self._client.delete(PODS, *pod.metadata.key, grace_period_seconds=0)


async def _serve(access: Access) -> None:
    async with KubeClient(access) as client:
        running = asyncio.create_task(Controllers(client, clock=SystemClock()).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()


def main(argv: Sequence[str]) -> int:
    """Parse the command line and run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="kubeproxy.lab.controllers", allow_abbrev=False)
    add_arguments(parser)
    given = parser.parse_args(argv)
    logs.configure()
    asyncio.run(_serve(api_access(given.kubeconfig, given.server)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
