"""The node agent put together: the only module that names concrete stores, backends and clocks.

informers → World → one Syncer per IP family → the backend. Beside them the health and metrics servers. An
API server or store that is away is no reason to stop: the informers retry, the kernel keeps what it has.
"""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from urllib.parse import urlsplit

from aiohttp import web

from kubeproxy.clock import Clock, SystemClock
from kubeproxy.config.encode import configz
from kubeproxy.config.mismatch import mismatches, primary_family
from kubeproxy.dataplane.collector import set_aside
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import remove
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.following import Following
from kubeproxy.health.announce import Announcer
from kubeproxy.health.changes import Changes
from kubeproxy.health.debug import About, metrics_app
from kubeproxy.health.events import Recorder
from kubeproxy.health.http import health_app, serve
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.report import SyncReport
from kubeproxy.health.service_health import ServiceHealth
from kubeproxy.health.statusz import AgentStatus, DroppedHere
from kubeproxy.kernel.conntrack import KernelConntrack
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.families import HostFamilies, host_families
from kubeproxy.kernel.features import Features
from kubeproxy.kernel.iptables import detect_flavour
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.sockets import most_files
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family, canonical_ip, family_of
from kubeproxy.model.claims import Place
from kubeproxy.model.objects import Protocol
from kubeproxy.model.world import World
from kubeproxy.modes import Parts, family_trouble, flavour_of, intervals_of, parts_of
from kubeproxy.options import Options, settings_of
from kubeproxy.store.credentials import Access
from kubeproxy.store.kube import KubeClient
from kubeproxy.sync.flows import FlowReconciler
from kubeproxy.sync.full_syncs import FullSyncs
from kubeproxy.sync.leftovers import Sweeper
from kubeproxy.sync.status import SyncStatus
from kubeproxy.sync.syncer import Syncer
from kubeproxy.trace.condition import condition_of
from kubeproxy.trace.explainer import Explainer
from kubeproxy.trace.http import answering as tracing
from kubeproxy.traffic.http import answering as counting
from kubeproxy.traffic.machine import counted_by, looks
from kubeproxy.traffic.observer import Observer

log = logging.getLogger(__name__)

RESERVED_FILES = 256
"""What is kept of the files that this process may have open, for programs, watches and sockets of netlink."""


def place_of(server: str) -> Place | None:
    """Return where an API server listens, None when its URL has a name, which may mean any address tomorrow."""
    url = urlsplit(server)
    address = canonical_ip(url.hostname or "")
    return Place(address, Protocol.TCP, url.port or (443 if url.scheme == "https" else 80)) if address else None


class UnfitNode(Exception):
    """The configuration cannot be served on this node; the text says what does not fit."""


class Agent:
    """One node's agent. Lives on one event loop; `run` until cancelled."""

    def __init__(
        self, options: Options, client: KubeClient, parts: Parts, host: HostFamilies, clock: Clock
    ) -> None:
        self._options = options
        self._host = host
        self._clock = clock
        self._parts = parts
        self._world = World()
        self._is_settled = False
        """Whether everything that was there at the start is in the kernel."""
        if place := place_of(client.server):
            self._world.claims.reserve(place, "the API server that this node follows")
            if parts.mode is Mode.IPVS and place.address not in local_addresses(family_of(place.address)):
                why = "the API server's: made this node's own, as ipvs mode does, it would lock the node out"
                self._world.keep_clear(place, why)
        self._metrics = Metrics(host.served, in_nftables=parts.mode is Mode.NFTABLES)
        self._health = ProxyHealth(host.served, options.configuration.sync_period)
        self._recorder = Recorder(client, clock, options.node_name, self._count_events)
        self._announcer = Announcer(self._recorder.record, options.node_name)
        self._checks = {family: self._service_health(family) for family in host.served}
        changes = Changes(host.served, clock.wall())
        self._report = SyncReport(self._metrics, self._health, changes, self._checks, clock)
        for counter in parts.counters:
            self._metrics.count_in_kernel(counter.name, counter.text, counter.read)
        self._unfit: asyncio.Queue[UnfitNode] = asyncio.Queue()
        sweep = partial(asyncio.to_thread, remove, whole_kernel(parts.programs), host.served, parts.kept)
        self._sweeper = Sweeper(sweep, host.served, clock)
        self._full_syncs = FullSyncs()
        self._syncers = [self._syncer(family) for family in host.served]
        self._following = Following(
            client,
            clock,
            options.node_name,
            self._world,
            self._syncers,
            self._report,
            self._health,
            self._announcer,
            self._all_synced,
        )

    async def run(self) -> None:
        """Follow the API server and program the kernel until cancelled. Raises UnfitNode; OSError on hard fail."""
        self._health.away_since = self._following.away_since
        self._announcer.started()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._end_when_unfit())
            tasks.create_task(self._recorder.run())
            tasks.create_task(self._announcer.watch(self._health, self._clock))
            tasks.create_task(self._sweeper.run())
            for informer in self._following.informers.values():
                tasks.create_task(informer.run())
            for syncer in self._syncers:
                tasks.create_task(syncer.run())
            for checks in self._checks.values():
                tasks.create_task(checks.run())
            for app, address in self._servers():
                if address is not None:
                    hard_fail = self._options.configuration.bind_address_hard_fail
                    tasks.create_task(serve(app, address, self._clock, hard_fail=hard_fail))

    def _servers(self) -> Iterable[tuple[web.Application, tuple[str, int] | None]]:
        yield health_app(self._health, self._metrics, self._clock), self._options.healthz_address
        chosen = self._options.configuration
        about = About(
            mode=chosen.mode,
            configz=configz(chosen),
            flags=self._options.flags,
            profiling=chosen.enable_profiling,
        )
        debug = metrics_app(self._metrics, self.status, about, self._clock)
        debug.router.add_get("/trace", tracing(self._explainer()))
        debug.router.add_get("/services", counting(self._observer()))
        yield debug, self._options.metrics_address

    def _explainer(self) -> Explainer:
        syncers = {syncer.status.family: syncer for syncer in self._syncers}
        return Explainer(
            self._world,
            settings_of(self._options),
            mode=self._parts.mode,
            flavour=self._parts.glue,
            locator=self._parts.locator,
            families=tuple(syncers),
            condition=lambda family: condition_of(syncers[family].status, self._clock.now()),
            local_addresses=local_addresses,
        )

    def _observer(self) -> Observer:
        mode, settings = self._parts.mode, settings_of(self._options)
        return Observer(self._world, settings, mode, counted_by(mode), looks(mode, self._host.served))

    def _syncer(self, family: Family) -> Syncer:
        settings = settings_of(self._options)
        flows = FlowReconciler(
            KernelConntrack(family), partial(local_addresses, family), settings, family, self._clock
        )
        return Syncer(
            self._world,
            self._parts.backend(family),
            settings,
            family,
            self._clock,
            self._sync_ended,
            intervals_of(self._options.configuration, self._parts.look_every, self._parts.glance_every),
            self._report.synced,
            flows,
            self._parts.hints(family),
            self._full_syncs,
        )

    def _service_health(self, family: Family) -> ServiceHealth:
        sockets = max(most_files() - RESERVED_FILES, 0) // len(self._host.served)
        checks = ServiceHealth(family, self._clock, self._is_healthy, self._announcer.not_listening, sockets)
        self._metrics.silent_health_checks.labels(family.label).set_function(lambda: checks.silent)
        return checks

    def _is_healthy(self) -> bool:
        return self._health.is_healthy(self._clock.wall())

    def _count_events(self, outcome: str, times: int) -> None:
        self._metrics.events.labels(outcome).inc(times)

    def _sync_ended(self, status: SyncStatus) -> None:
        self._report.note(status)
        self._sweeper.note(status)
        self._announcer.note(status)
        if not self._is_settled and all(syncer.status.synced for syncer in self._syncers):
            self._is_settled = True
            set_aside()

    def _all_synced(self) -> None:
        if self._fits():
            for syncer in self._syncers:
                syncer.synced()

    def _fits(self) -> bool:
        """Compare the configuration with the Node, before anything is written."""
        node, chosen = self._world.node, self._options.configuration
        addresses = (*node.internal_ips, *node.external_ips) if node else ()
        primary = primary_family(chosen, addresses)
        pod_cidrs = node.pod_cidrs if node else ()
        found = mismatches(chosen, addresses, dual_stack=len(self._host.served) > 1, pod_cidrs=pod_cidrs)
        for each in found:
            log.warning("the configuration may be incomplete or wrong: %s", each.text)
        fatal = [each.text for each in found if each.fatal]
        fatal += [
            f"{each.label}, this node's own family, cannot be served: {why}"
            for each, why in self._host.missing
            if each is primary
        ]
        if fatal:
            self._unfit.put_nowait(UnfitNode("; ".join(fatal)))
        return not fatal

    async def _end_when_unfit(self) -> None:
        raise await self._unfit.get()

    def status(self) -> AgentStatus:
        """Return what `kubeproxy status` shows."""
        return AgentStatus(
            mode=self._parts.mode,
            flavour=self._parts.glue,
            node=self._options.node_name,
            wall=self._clock.wall(),
            clock=self._clock.now(),
            informers=self._following.status(),
            families=tuple(syncer.status for syncer in self._syncers),
            dropped_here=tuple(map(_dropped_here, self._syncers)),
            not_served=self._host.missing,
            hints=self._host.hints,
            health_checks=tuple(check for each in self._checks.values() for check in each.status()),
            leftovers=self._sweeper.complaints,
            waiting=self._sweeper.waiting,
        )


def _dropped_here(syncer: Syncer) -> DroppedHere:
    cluster_ip, external = syncer.without_local()
    return DroppedHere(family=syncer.status.family, cluster_ip=cluster_ip, external=external)


async def run_agent(options: Options, access: Access) -> None:
    """Run the agent, in a mode that is decided, against an API server until cancelled.

    Raises CommandMissing (no iptables, nor nftables in its place), NoFamily.
    """
    machine = Features(SystemExec(), Ipvs())
    detect = partial(detect_flavour, SystemExec(), names.CANARY)
    flavour = await asyncio.to_thread(flavour_of, options, machine, detect)
    trouble = partial(family_trouble, options, machine, flavour)
    host = await asyncio.to_thread(host_families, ProcSysctls(), trouble)
    for family, why in host.missing:
        log.info("%s is not served: %s", family.label, why)
    for hint in host.hints:
        log.warning("%s", hint)
    parts = parts_of(options, flavour)
    log.info("mode %s, node %s, API server %s", parts, options.node_name, access.server)
    async with KubeClient(access) as client:
        await Agent(options, client, parts, host, SystemClock()).run()
