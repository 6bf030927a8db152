"""Removing what a pod has on its node, from its record alone: also a pod that no worker runs any more."""

import asyncio
import logging

from kubeproxy.lab import podnetwork
from kubeproxy.lab.containerprocess import adopt
from kubeproxy.lab.node import Node
from kubeproxy.lab.podfiles import PodDirectory, PodRecord

log = logging.getLogger(__name__)


async def tear_down(record: PodRecord, node: Node) -> None:
    """Kill the pod's processes, remove its network and files, give its address back."""
    for container in record.containers.values():
        process = adopt(container.process) if container.process is not None else None
        if process is not None:
            process.kill_all()
    if record.netns:
        cable = podnetwork.cable_of(record.namespace, record.name, record.uid)
        await asyncio.to_thread(_remove_network, node, cable)
    node.pool.free(record.uid)
    await asyncio.to_thread(PodDirectory(node.state_dir, record.namespace, record.name).remove)
    log.info("pod %s/%s is removed", record.namespace, record.name)


def _remove_network(node: Node, cable: podnetwork.Cable) -> None:
    podnetwork.kill_processes_in(node.execute, cable)
    podnetwork.detach(node.execute, cable)
