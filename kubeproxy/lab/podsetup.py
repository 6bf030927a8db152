"""Giving a pod its place on the node: ConfigMaps read, address, network and files made, or what stands kept.

Every step may fail (the API server is away, a ConfigMap is missing, the kernel refuses) and is then tried again as
a whole by the caller: making a network begins by removing what stands under its name.
"""

import asyncio
import logging
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from kubeproxy.kernel.exec import KernelError
from kubeproxy.lab import podetc, podnetwork, podspec
from kubeproxy.lab.ipam import Exhausted
from kubeproxy.lab.node import Node
from kubeproxy.lab.podfiles import MissingSource, PodDirectory, PodRecord
from kubeproxy.lab.podspec import LabPod
from kubeproxy.lab.teardown import tear_down
from kubeproxy.store.base import StoreError
from kubeproxy.store.kube import ApiError
from kubeproxy.store.resources import CONFIG_MAPS

log = logging.getLogger(__name__)

SETUP_FAILURES = (KernelError, Exhausted, MissingSource, OSError, StoreError)
"""What a pod's set-up may end with, and what a later try may overcome."""


async def read_config_maps(pod: LabPod, node: Node) -> dict[str, Mapping[str, Any]]:
    """Return the ConfigMaps that the pod refers to, by name. Raises MissingSource, StoreError."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, optional in podspec.config_maps(pod).items():
        try:
            found[name] = await node.client.get(CONFIG_MAPS, pod.metadata.namespace, name)
        except ApiError as error:
            if error.code != 404:
                raise
            if not optional:
                raise MissingSource(f'configmap "{name}" not found') from None
    return found


async def take_over(pod: LabPod, node: Node, directory: PodDirectory) -> PodRecord | None:
    """Return the record of this very pod as a former kubelet left it; another pod's remains are removed."""
    standing = directory.read()
    if standing is None:
        return None
    has_network = not standing.netns or await asyncio.to_thread(Path(standing.netns).exists)
    if standing.uid != pod.metadata.uid or not has_network:
        await tear_down(standing, node)
        return None
    if standing.netns:
        await asyncio.to_thread(_kill_unrecorded, standing, node)
    log.info("pod %s/%s is taken over", *pod.metadata.key)
    return standing


def _kill_unrecorded(standing: PodRecord, node: Node) -> None:
    """End what a kubelet killed in mid-start had started but not recorded."""
    known = {each.process.pid for each in standing.containers.values() if each.process is not None}
    cable = podnetwork.cable_of(standing.namespace, standing.name, standing.uid)
    podnetwork.kill_processes_in(node.execute, cable, spare=known)


async def make(
    pod: LabPod, node: Node, directory: PodDirectory, maps: Mapping[str, Mapping[str, Any]], started_at: str
) -> PodRecord:
    """Make the pod's network and files and record them. Raises one of SETUP_FAILURES."""
    netns, address = "", node.address
    if not pod.spec.host_network:
        subnet = await node.subnet()
        cable = podnetwork.cable_of(*pod.metadata.key, pod.metadata.uid)
        netns, address = cable.path, str(node.pool.take(subnet, pod.metadata.uid))
        await asyncio.to_thread(podnetwork.attach, node.execute, cable, IPv4Address(address), subnet)
    resolv_conf, hosts = directory.write_network_files(
        podetc.resolv_conf(pod, node.cluster_dns, node.cluster_domain, node.resolv_conf),
        podetc.hosts_file(pod, address, node.name, node.cluster_domain),
    )
    directory.write_volumes(pod, maps)
    record = PodRecord(
        uid=pod.metadata.uid,
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        netns=netns,
        address=address,
        started_at=started_at,
        resolv_conf=resolv_conf,
        hosts=hosts,
    )
    directory.write(record)
    return record
