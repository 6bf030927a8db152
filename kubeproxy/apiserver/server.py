"""The API server put together: store, registry, HTTP sites, and the controllers of whichever server leads.

`running` is for the command and for the agent's embedded server alike: it opens everything, yields, and closes
everything. What runs beside the requests is restarted when it dies, with growing pauses.
"""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import msgspec

from kubeproxy.apiserver import client_urls
from kubeproxy.apiserver.allocate import Allocator, Ranges
from kubeproxy.apiserver.app import api_app, waiting_app
from kubeproxy.apiserver.bootstrap import SystemObjects
from kubeproxy.apiserver.cidr_protection import ServiceCidrProtection
from kubeproxy.apiserver.credentials import write_admin
from kubeproxy.apiserver.gate import Gate
from kubeproxy.apiserver.gc import GarbageCollector
from kubeproxy.apiserver.listening import RESERVED_FILES, Doorkeeper, url_of
from kubeproxy.apiserver.masters import LEASE_SECONDS, Reach
from kubeproxy.apiserver.metrics import Metrics
from kubeproxy.apiserver.protection import Protected, Protection, protect
from kubeproxy.apiserver.registry import Registry
from kubeproxy.apiserver.streams import MAX_WATCHES
from kubeproxy.clock import Clock
from kubeproxy.controllers.election import Election
from kubeproxy.controllers.manager import run_endpoint_controllers
from kubeproxy.controllers.nodeipam import NodeIpam
from kubeproxy.controllers.podcidrs import PodNetwork
from kubeproxy.kernel.sockets import listen, most_files
from kubeproxy.store.base import Store, StoreError, Unavailable
from kubeproxy.store.compaction import compact_regularly
from kubeproxy.store.credentials import Access, StaticToken
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.etcd_access import EtcdAccess
from kubeproxy.store.gateway import gateway_app
from kubeproxy.store.gateway_users import GatewayUsers
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

_LEAVE_SECONDS = 2.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_LEASE = "kube-controller-manager"
"""Upstream's name for who runs these loops: a real controller manager on the same cluster would wait for us."""
_LONGEST_WAIT = 5.0
"""Between two looks for a store that is away at the start."""
_STEADY_SECONDS = 60.0
"""A task that ran this long before it died starts over with the short pause."""

REQUESTS = 256
"""Connections that watches leave for what is not one."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve and where. ``store`` is `sqlite:PATH` or one or more etcd URLs, comma separated."""

    store: str
    ranges: Ranges
    bind_address: str = "127.0.0.1"
    port: int = 8001
    advertise_address: str = ""
    """Where pods find this server; "" when no address of it can be reached from them."""
    listen_fds: tuple[int, ...] = ()
    client_urls: tuple[str, ...] = ()
    client_users_file: str = ""
    etcd: EtcdAccess = EtcdAccess()
    pod_network: PodNetwork | None = None
    """What Nodes get podCIDRs of; None: somebody else gives them, or nobody."""
    compaction_seconds: float = 300.0
    """How often the history of an etcd is compacted (SQLite does it by itself); 0: never."""
    max_watches: int = MAX_WATCHES
    protection: Protection = Protection()
    write_kubeconfig: str = ""
    """Where to write an administrator's credentials, signed by the generated CA; "" for nowhere."""


async def open_store(text: str, clock: Clock, access: EtcdAccess) -> Store:
    """Open the store that a --store value names. Raises ValueError, StoreError."""
    scheme, _, rest = text.partition(":")
    if scheme == "sqlite" and rest:
        return await SqliteStore.open(rest, clock=clock)
    if scheme in ("http", "https"):
        return EtcdStore(text.split(","), access=access)
    raise ValueError(f"store {text!r}: must be sqlite:PATH or http://HOST:PORT")


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: Clock) -> AsyncIterator[str]:
    """Serve; yield the URL of the API. Raises OSError when an address cannot be had, StoreError, ValueError."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = _bind(settings, stack)
        gateway_tls = any(each.tls for each in sockets.clients)
        protected = protect(settings.protection, sockets.api, _names(settings), clock, gateway_tls=gateway_tls)
        users = client_urls.users_for(
            sockets.clients, settings.client_users_file, clock, plain=settings.protection.plain
        )
        store = await open_store(settings.store, clock, settings.etcd)
        stack.push_async_callback(store.close)
        rng = random.SystemRandom()
        registry = Registry(store, Allocator(store, settings.ranges, rng), clock=clock, rng=rng)
        port = sockets.api[0].getsockname()[1]
        system = SystemObjects(registry, settings.ranges, Reach(settings.advertise_address, port))
        if not settings.advertise_address:
            log.info("no advertise address that pods could reach: the kubernetes Service has no endpoints")
        await _bootstrap(system, sockets, protected, clock)
        stack.push_async_callback(_leave, system)
        metrics = Metrics()
        local = await _serve(settings, sockets, registry, protected, users, metrics, clock, stack)
        url, identity = url_of(sockets.api[0], tls=protected.secure), _identity(settings.store)
        if settings.write_kubeconfig:
            write_admin(settings.protection.pki, Path(settings.write_kubeconfig), url, clock.wall())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        beside = [
            tasks.create_task(_kept_running("system objects", lambda: system.keep(clock), clock)),
            tasks.create_task(
                _kept_running("certificates and tokens", lambda: protected.keep_fresh(clock), clock)
            ),
            tasks.create_task(
                _kept_running(
                    "controllers", lambda: _control(local, registry, clock, identity, settings, metrics), clock
                )
            ),
        ]
        if settings.compaction_seconds and isinstance(store, EtcdStore):
            beside.append(tasks.create_task(compact_regularly(store, clock, settings.compaction_seconds)))
        try:
            yield url
        finally:
            for task in beside:
                task.cancel()


class _Sockets(msgspec.Struct, frozen=True):
    api: list[socket.socket]
    clients: list[client_urls.ClientSocket]


def _bind(settings: Settings, stack: contextlib.AsyncExitStack) -> _Sockets:
    """Take every address before anything else is touched, so that a taken one changes nothing."""
    api = [listen(settings.bind_address, settings.port)]
    api += [socket.socket(fileno=number) for number in settings.listen_fds]
    clients = client_urls.bind(settings.client_urls)
    for bound in (*api, *(each.bound for each in clients)):
        stack.callback(bound.close)
    return _Sockets(api, clients)


def _names(settings: Settings) -> list[str]:
    """Return what clients call this server by, beside the names that every one has."""
    bound = ip_address(settings.bind_address)
    names = [] if bound.is_unspecified else [str(bound)]
    names += [settings.advertise_address] if settings.advertise_address else []
    return [*names, str(settings.ranges.networks[0][1])]


async def _bootstrap(system: SystemObjects, sockets: _Sockets, protected: Protected, clock: Clock) -> None:
    """Make what every cluster has; a store that is away is waited for, and clients are told so meanwhile."""
    try:
        await system.ensure()
    except Unavailable as error:
        reason = str(error)
    else:
        return
    waiting = Doorkeeper(waiting_app(lambda: reason), clock, connections=most_files() - RESERVED_FILES)
    for bound in sockets.api:
        await waiting.start(bound, _context(protected))
    try:
        log.warning("waiting for the store: %s", reason)
        pause = _FIRST_PAUSE
        while True:
            await clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_WAIT)
            try:
                await system.ensure()
                return
            except Unavailable as error:
                if str(error) != reason:
                    reason = str(error)
                    log.warning("waiting for the store: %s", reason)
    finally:
        await waiting.stop()


def _context(protected: Protected) -> ssl.SSLContext | None:
    """Return the TLS that the API's sockets speak, if any."""
    return protected.tls.context if protected.secure and protected.tls is not None else None


async def _leave(system: SystemObjects) -> None:
    """Take this server off the endpoints; where the store is away, the lease's end does it."""
    try:
        async with asyncio.timeout(_LEAVE_SECONDS):
            await system.leave()
    except (StoreError, TimeoutError) as error:
        log.info("this server stays among the kubernetes Service's endpoints for %d s: %s", LEASE_SECONDS, error)


async def _serve(
    settings: Settings,
    sockets: _Sockets,
    registry: Registry,
    protected: Protected,
    users: GatewayUsers | None,
    metrics: Metrics,
    clock: Clock,
    stack: contextlib.AsyncExitStack,
) -> Access:
    """Begin to answer; return how what runs in this process reaches the API."""
    most = most_files() - RESERVED_FILES
    authenticator = protected.authenticator
    context = protected.tls.context if protected.tls is not None else None
    gate = Gate(authenticator, registry, clock, local_only=authenticator.is_open)
    watches = min(settings.max_watches, max(most - REQUESTS, most // 2))
    app = api_app(registry, clock, gate, max_watches=watches, metrics=metrics)
    api = Doorkeeper(app, clock, connections=most)
    metrics.turned_away.follow("api", lambda: {"api": api.refused})
    stack.push_async_callback(api.stop)
    for bound in sockets.api:
        await api.start(bound, _context(protected))
    if sockets.clients:
        gateway = Doorkeeper(
            gateway_app(registry.store, users=users, local_only=users is None), clock, connections=most
        )
        metrics.turned_away.follow("gateway", lambda: {"gateway": gateway.refused})
        stack.push_async_callback(gateway.stop)
        for each in sockets.clients:
            await gateway.start(each.bound, context if each.tls else None)
    credentials = StaticToken(authenticator.loopback_token)
    if not protected.secure:
        return Access(server=url_of(sockets.api[0], tls=False), credentials=credentials)
    # Our own requests need no certificate that names this address, nor a client that follows its renewals.
    own = listen("127.0.0.1", 0)
    stack.callback(own.close)
    await api.start(own, None)
    return Access(server=url_of(own, tls=False), credentials=credentials)


def _identity(store: str) -> str:
    """Return this process' name in elections: host_uuid, as upstream's.

    A SQLite store has one process at a time (it holds the file's lock), which may go by the same name each time:
    killed and started again, it leads at once. On etcd nothing says that the last one has ended, so it is waited
    for like any other.
    """
    scheme, _, path = store.partition(":")
    unique = uuid.uuid5(uuid.NAMESPACE_URL, Path(path).resolve().as_uri()) if scheme == "sqlite" else uuid.uuid4()
    return f"{socket.gethostname()}_{unique}"


async def _control(
    local: Access, registry: Registry, clock: Clock, identity: str, settings: Settings, metrics: Metrics
) -> None:
    """Run, while this server is the leader, what only one may run at a time."""
    async with KubeClient(local) as client:
        election = Election(client, _LEASE, identity, clock=clock)
        collector = GarbageCollector(registry, clock, election.ensure_held)
        protection = ServiceCidrProtection(registry, clock, election.ensure_held)
        metrics.leading.labels(_LEASE).set_function(lambda: election.held)
        metrics.retries.follow("garbage collector", lambda: {"garbage collector": collector.failures})
        metrics.retries.follow("ServiceCIDR protection", lambda: {"ServiceCIDR protection": protection.failures})

        async def endpoints() -> None:
            await run_endpoint_controllers(
                client, clock=clock, guard=election.ensure_held, show=metrics.follow_loop
            )

        async def work() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_kept_running("garbage collector", collector.run, clock))
                tasks.create_task(_kept_running("ServiceCIDR protection", protection.run, clock))
                tasks.create_task(_kept_running("endpoint controllers", endpoints, clock))
                if settings.pod_network is not None:
                    ipam = NodeIpam(client, settings.pod_network, clock=clock, guard=election.ensure_held)
                    metrics.retries.follow("node IPAM", lambda: {"node IPAM": ipam.failures})
                    tasks.create_task(_kept_running("node IPAM", ipam.run, clock))

        await election.run(work)


async def _kept_running(name: str, run: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run a task for as long as the server runs; when it dies, say so once with its trace and start it again."""
    pause = _FIRST_PAUSE
    while True:
        started = clock.now()
        try:
            await run()
        except Exception:
            log.exception("%s died; starting it again in %.1f s", name, pause)
        if clock.now() - started > _STEADY_SECONDS:
            pause = _FIRST_PAUSE
        await clock.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
