"""flanneld, put together: the only module that names the concrete store, kernel and clock.

Order: find the underlay, read the configuration, prepare the backend, hold a lease, program the kernel, write
the firewall's rules, write subnet.env, and then keep all of it true until a signal comes. A stop leaves lease,
devices, routes and rules as they are: traffic goes on, and the next start finds its subnet again.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from pathlib import Path

from flannel.backends.base import Backend, Context
from flannel.backends.registry import make_backend
from flannel.backoff import Backoff
from flannel.config import Config
from flannel.health import serve_health
from flannel.lease import Lease
from flannel.masquerade import MASQUERADE_CHAIN, Chain, MasqueradeRules, forward_chain, masquerade_chain
from flannel.netconf import NetConf
from flannel.overlay import usable_peers
from flannel.reconciler import Reconciler
from flannel.subnet_env import read_subnet_env, render_subnet_env, write_subnet_env
from flannel.subnets import SubnetManager
from flannel.underlay import find_underlay
from kubeproxy.clock import Clock
from kubeproxy.kernel.exec import Exec, KernelError
from kubeproxy.kernel.interfaces import Interfaces
from kubeproxy.kernel.iptables import Iptables, detect_flavour
from kubeproxy.model.addresses import Family
from kubeproxy.store.base import Store

log = logging.getLogger(__name__)

BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


class Daemon:
    """One node's flanneld. `run` ends by cancellation, or by an exception that says why it cannot go on."""

    def __init__(self, config: Config, store: Store, interfaces: Interfaces, execute: Exec, clock: Clock) -> None:
        self._config = config
        self._store = store
        self._interfaces = interfaces
        self._execute = execute
        self._clock = clock
        self._manager: SubnetManager | None = None
        self._reconciler: Reconciler | None = None
        self._started = False
        self._refused: frozenset[str] = frozenset()

    def is_ready(self) -> bool:
        """Whether subnet.env is written, the overlay's devices stand, and the leases are in step."""
        manager, reconciler = self._manager, self._reconciler
        return (
            self._started
            and manager is not None
            and manager.synced
            and reconciler is not None
            and reconciler.linked.is_set()
        )

    async def run(self) -> None:
        """Run until cancelled. Raises what makes going on pointless: no interface, no subnet, a bad backend."""
        config = self._config
        health = None
        if config.healthz_port:
            health = await serve_health(config.healthz_ip, config.healthz_port, self.is_ready)
        try:
            await self._run()
        finally:
            if health is not None:
                await health.cleanup()

    async def _run(self) -> None:
        config = self._config
        underlay = await asyncio.to_thread(find_underlay, self._interfaces, config.wish)
        log.info("interface %s, address %s, public %s", underlay.link, underlay.address, underlay.public_ip)
        self._manager = manager = SubnetManager(
            self._store,
            prefix=config.etcd_prefix,
            public_ip=underlay.public_ip,
            clock=self._clock,
            chooser=random.Random(),
            renew_margin_seconds=config.renew_margin_seconds,
        )
        netconf = await manager.netconf()
        log.info(
            "network %s, subnets /%d, backend %s", netconf.network, netconf.subnet_length, netconf.backend.type
        )
        backend = make_backend(Context(netconf=netconf, underlay=underlay, interfaces=self._interfaces))
        own = await self._acquire(manager, netconf, backend)
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
            if rules is not None:
                tasks.create_task(rules.keep(config.iptables_resync, self._clock))

    async def _acquire(self, manager: SubnetManager, netconf: NetConf, backend: Backend) -> Lease:
        previous = await asyncio.to_thread(read_subnet_env, self._config.subnet_file)
        standing = await manager.standing_lease()
        attrs = await asyncio.to_thread(backend.attributes, standing.attrs if standing else None)
        lease = await manager.acquire(netconf, attrs, previous.subnet)
        kind = "a reservation" if lease.id == 0 else "for 24 h"
        log.info("subnet %s is leased to this node, %s", lease.subnet, kind)
        return lease

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
