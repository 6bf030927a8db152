"""The lab's kubelet: runs the pods that are bound to one node, inside that node's network namespace.

    python -m kubeproxy.lab.kubelet --node node1 --node-ip 192.168.56.11 --kubeconfig FILE
        --subnet-file F --state-dir D [--cluster-dns 10.96.0.10] [--cluster-domain cluster.local]

What flows in: the Pods whose spec.nodeName is this node. What flows out: namespaces, cables and processes, and
the status of Node and Pods. One `PodWorker` a pod; a pod whose name comes back with another uid waits until the
former one is torn down. Killed, it leaves its pods running and the next kubelet takes them over.

A real kubelet does much more. This one exists so that the network has something to connect: no images, no
cgroups, no secrets.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from kubeproxy import logs
from kubeproxy.clock import SystemClock
from kubeproxy.controllers.objects import Key
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.lab.access import add_arguments, api_access
from kubeproxy.lab.containerprocess import use_pidfds
from kubeproxy.lab.node import Node
from kubeproxy.lab.podfiles import pods_in
from kubeproxy.lab.pods import PodWorker
from kubeproxy.lab.podspec import LabPod, decode_lab_pod
from kubeproxy.lab.registration import Registration, this_machine
from kubeproxy.lab.teardown import tear_down
from kubeproxy.store.informer import Informer
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import PODS

log = logging.getLogger(__name__)

FAULT_PAUSE_SECONDS = 10.0
"""How long a pod is left as it is after a fault of the kubelet's own."""


class Kubelet:
    """All pods of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._workers: dict[Key, PodWorker] = {}
        self._wanted: dict[Key, LabPod] = {}
        self._synced = asyncio.Event()
        self._informer = Informer(
            node.client,
            PODS,
            decode_lab_pod,
            clock=node.clock,
            field_selector=f"spec.nodeName={node.name}",
            on_change=self._pods_changed,
            on_synced=self._synced.set,
        )
        self._changed: asyncio.Queue[Key] = asyncio.Queue()

    async def run(self) -> None:
        """Run until cancelled; pods are left running."""
        registration = Registration(self._node, this_machine())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(registration.run())
            tasks.create_task(self._informer.run())
            # Until the list is whole, a pod that is not in it cannot be told from one that is gone.
            await self._synced.wait()
            await self._remove_orphans()
            while True:
                self._attend(await self._changed.get(), tasks)

    def _pods_changed(self, changes: Mapping[Key, LabPod | None]) -> None:
        for key, pod in changes.items():
            if pod is None:
                self._wanted.pop(key, None)
            else:
                self._wanted[key] = pod
            self._changed.put_nowait(key)

    async def _remove_orphans(self) -> None:
        uids = {pod.metadata.uid for pod in self._wanted.values()}
        for record in list(pods_in(self._node.state_dir)):
            if record.uid not in uids:
                await tear_down(record, self._node)
        for owner in self._node.pool.owners().keys() - uids:
            self._node.pool.free(owner)

    def _attend(self, key: Key, tasks: asyncio.TaskGroup) -> None:
        pod, worker = self._wanted.get(key), self._workers.get(key)
        if worker is not None:
            if pod is not None and pod.metadata.uid == worker.uid:
                worker.update(pod)
            else:
                worker.forget()
        elif pod is not None:
            fresh = self._workers[key] = PodWorker(pod, self._node)
            tasks.create_task(self._work(key, fresh))

    async def _work(self, key: Key, worker: PodWorker) -> None:
        while not await _came_to_its_end(worker):
            await self._node.clock.sleep(FAULT_PAUSE_SECONDS)
            worker = self._workers[key] = worker.heir()
        del self._workers[key]
        pod = self._wanted.get(key)
        if pod is not None and pod.metadata.uid != worker.uid:
            self._changed.put_nowait(key)


async def _came_to_its_end(worker: PodWorker) -> bool:
    """Run a pod; a fault of ours in one is shown, and must not end the others."""
    try:
        await worker.run()
    except Exception:
        log.exception("a fault of this kubelet in pod %s; it is taken over again", worker.title)
        return False
    return True


async def _serve(given: argparse.Namespace) -> None:
    given.state_dir.mkdir(parents=True, exist_ok=True)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    access = api_access(given.kubeconfig, given.server)
    async with KubeClient(access) as client, aiohttp.ClientSession(connector=connector) as session:
        node = Node(
            given.node,
            given.node_ip,
            client=client,
            session=session,
            clock=SystemClock(),
            execute=SystemExec(),
            state_dir=given.state_dir,
            subnet_file=given.subnet_file,
            cluster_dns=given.cluster_dns,
            cluster_domain=given.cluster_domain,
            resolv_conf=given.resolv_conf.read_text() if given.resolv_conf.exists() else "",
        )
        running = asyncio.create_task(Kubelet(node).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()


def main(argv: Sequence[str]) -> int:
    """Parse the command line and run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="kubeproxy.lab.kubelet", allow_abbrev=False)
    parser.add_argument("--node", required=True)
    parser.add_argument("--node-ip", required=True)
    add_arguments(parser)
    parser.add_argument("--subnet-file", required=True, type=Path, help="flannel's subnet.env")
    parser.add_argument("--state-dir", required=True, type=Path)
    parser.add_argument("--cluster-dns", default="10.96.0.10")
    parser.add_argument("--cluster-domain", default="cluster.local")
    parser.add_argument(
        "--resolv-conf", default=Path("/etc/resolv.conf"), type=Path, help="for pods that do not ask cluster DNS"
    )
    given = parser.parse_args(argv)
    logs.configure()
    use_pidfds()
    asyncio.run(_serve(given))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
