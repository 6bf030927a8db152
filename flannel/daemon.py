"""One node's flanneld: subnet manager, backend, kernel and files, in the order in which they need each other.

Order: find the underlay, read the configuration, prepare the backend, hold a lease, program the kernel, write
the firewall's rules, write subnet.env, and then keep all of it true until a signal comes. A stop leaves lease,
devices, routes and rules as they are: traffic goes on, and the next start finds its subnet again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec

from flannel.backends.base import Backend, Context
from flannel.backends.registry import make_backend
from flannel.backoff import Backoff
from flannel.config import Config
from flannel.health import serve_health
from flannel.lease import Lease
from flannel.manager import SubnetManager
from flannel.masquerade import MASQUERADE_CHAIN, Chain, MasqueradeRules, forward_chain, masquerade_chain
from flannel.netconf import NetConf
from flannel.overlay import usable_peers
from flannel.reconciler import Reconciler
from flannel.subnet_env import read_subnet_env, render_subnet_env, write_subnet_env
from flannel.underlay import find_underlay
from kubeproxy.clock import Clock
from kubeproxy.kernel.exec import Exec, KernelError
from kubeproxy.kernel.interfaces import Interfaces
from kubeproxy.kernel.iptables import Iptables, detect_flavour
from kubeproxy.model.addresses import Family

log = logging.getLogger(__name__)

BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


class Daemon:
    """One node's flanneld. `run` ends by cancellation, or by an exception that says why it cannot go on."""

    def __init__(
        self, config: Config, manager: SubnetManager, interfaces: Interfaces, execute: Exec, clock: Clock
    ) -> None:
        self._config = config
        self._manager = manager
        self._interfaces = interfaces
        self._execute = execute
        self._clock = clock
        self._reconciler: Reconciler | None = None
        self._started = False
        self._refused: frozenset[str] = frozenset()

    def missing(self) -> str:
        """Return why this node is not ready: "" when subnet.env is written, and devices and leases are in step."""
        if self._reconciler is None or not self._started:
            return self._manager.waiting_for or "it is starting"
        if not self._manager.synced:
            return "the leases are not being watched"
        return "" if self._reconciler.linked.is_set() else "the overlay's devices do not stand"

    async def run(self) -> None:
        """Run until cancelled. Raises what makes going on pointless: no interface, no subnet, a bad backend."""
        config = self._config
        health = None
        if config.healthz_port:
            health = await serve_health(config.healthz_ip, config.healthz_port, self.missing)
        try:
            await self._run()
        finally:
            if health is not None:
                await health.cleanup()

    async def _run(self) -> None:
        config, manager = self._config, self._manager
        given = await manager.public_ip()
        wish = msgspec.structs.replace(config.wish, public_ip=given or config.wish.public_ip)
        underlay = await asyncio.to_thread(find_underlay, self._interfaces, wish)
        log.info("interface %s, address %s, public %s", underlay.link, underlay.address, underlay.public_ip)
        netconf = await manager.netconf()
        log.info(
            "network %s, subnets /%d, backend %s", netconf.network, netconf.subnet_length, netconf.backend.type
        )
        backend = make_backend(Context(netconf=netconf, underlay=underlay, interfaces=self._interfaces))
        own = await self._acquire(netconf, backend, underlay.public_ip)
        self._reconciler = reconciler = Reconciler(backend, self._interfaces, self._clock)

        def follow_leases(leases: tuple[Lease, ...]) -> None:
            holder = manager.own or own
            peers = usable_peers(netconf, holder, backend.lease_type, leases)
            self._log_refused(peers.refused)
            backend.announce(holder, peers.usable)
            reconciler.want(holder, peers.usable)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(backend.run())
            tasks.create_task(manager.follow(follow_leases))
            tasks.create_task(manager.renew())
            tasks.create_task(reconciler.run())
            await reconciler.linked.wait()
            rules = await self._masquerade(netconf, own.subnet)
            await self._write_subnet_env(netconf, own.subnet, backend.mtu)
            self._started = True
            log.info("running: subnet %s, MTU %d", own.subnet, backend.mtu)
            tasks.create_task(manager.mark_up())
            if rules is not None:
                tasks.create_task(rules.keep(config.iptables_resync, self._clock))

    async def _acquire(self, netconf: NetConf, backend: Backend, public_ip: IPv4Address) -> Lease:
        previous = await asyncio.to_thread(read_subnet_env, self._config.subnet_file)
        standing = await self._manager.standing_lease(public_ip)
        attrs = await asyncio.to_thread(backend.attributes, standing.attrs if standing else None)
        return await self._manager.acquire(netconf, attrs, previous.subnet)

    async def _masquerade(self, netconf: NetConf, subnet: IPv4Network) -> MasqueradeRules | None:
        chains: list[Chain] = []
        if self._config.ip_masq:
            _warn_about_bridges()
            random_fully = self._config.masq_random_fully
            chains.append(masquerade_chain(netconf.network, subnet, random_fully=random_fully))
        if self._config.forward_rules:
            chains.append(forward_chain(netconf.network))
        if not chains:
            return None
        flavour = await asyncio.to_thread(detect_flavour, self._execute, MASQUERADE_CHAIN)
        rules = MasqueradeRules(Iptables(self._execute, Family.V4, flavour), tuple(chains))
        await self._until_done(
            "writing the masquerading rules", KernelError, lambda: asyncio.to_thread(rules.ensure)
        )
        return rules

    async def _write_subnet_env(self, netconf: NetConf, subnet: IPv4Network, mtu: int) -> None:
        path = self._config.subnet_file
        text = render_subnet_env(netconf, subnet, mtu, masquerade=self._config.ip_masq)
        what = f"writing {path}"
        await self._until_done(what, OSError, lambda: asyncio.to_thread(write_subnet_env, path, text))

    def _log_refused(self, refused: frozenset[str]) -> None:
        for complaint in sorted(refused - self._refused):
            log.warning("lease ignored: %s", complaint)
        self._refused = refused

    async def _until_done(
        self, activity: str, kind: type[Exception], attempt: Callable[[], Awaitable[None]]
    ) -> None:
        backoff = Backoff(activity, self._clock, log)
        while True:
            try:
                await attempt()
            except kind as error:
                await backoff.wait(error)
            else:
                backoff.reset()
                return


def _warn_about_bridges() -> None:
    # flannel refuses to start here. Pods that are attached point to point, as in our lab, need no such thing,
    # and on a kernel without bridge netfilter nothing could be done about it either.
    if not BRIDGE_NETFILTER.exists():
        log.warning("%s is absent: if pods are on a bridge, load the module br_netfilter", BRIDGE_NETFILTER)
