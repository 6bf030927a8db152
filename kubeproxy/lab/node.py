"""What every pod on a node shares: who the node is, its clients, its addresses."""

import asyncio
import logging
import os
from pathlib import Path

import aiohttp

from kubeproxy.clock import Clock
from kubeproxy.kernel.exec import Exec
from kubeproxy.lab.ipam import AddressPool, Subnet, parse_subnet_env
from kubeproxy.store.kube import KubeClient

log = logging.getLogger(__name__)

SUBNET_POLL_SECONDS = 0.1


class Node:
    """One node, as its kubelet's parts see it."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        client: KubeClient,
        session: aiohttp.ClientSession,
        clock: Clock,
        execute: Exec,
        state_dir: Path,
        subnet_file: Path,
        cluster_dns: str,
        cluster_domain: str,
        resolv_conf: str,
    ) -> None:
        self.name = name
        self.address = address
        self.client = client
        self.session = session
        """Asks httpGet probes."""
        self.clock = clock
        self.execute = execute
        self.state_dir = state_dir
        self.pool = AddressPool(state_dir / "addresses.json")
        self.cluster_dns = cluster_dns
        self.cluster_domain = cluster_domain
        self.resolv_conf = resolv_conf
        """The node's own, for pods that do not ask the cluster's resolver."""
        self.netns = f"/proc/{os.getpid()}/ns/net"
        """Where pods of the node's own network run."""
        self._subnet_file = subnet_file

    async def subnet(self) -> Subnet:
        """Wait until flanneld has a lease for this node, and return it; read anew each time."""
        complaint = ""
        while True:
            try:
                return parse_subnet_env(await asyncio.to_thread(self._subnet_file.read_text))
            except (OSError, ValueError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.info("waiting for the overlay's lease: %s", error)
            await self.clock.sleep(SUBNET_POLL_SECONDS)
