"""Health check node ports: one family's HTTP servers, one for each Service that has such a port.

What they answer is upstream's (pkg/proxy/healthcheck): JSON, a weight for load balancers that share by it, 200
while this node has ready endpoints and the proxy keeps up, else 503. A port that cannot be opened is told of once,
as an Event of its Service, and tried again. Lives on the event loop.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import ip_network

from aiohttp import web

from kubeproxy.clock import Clock
from kubeproxy.health.doors import Door
from kubeproxy.http_log import HTTP_LOG
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.sockets import listen
from kubeproxy.model.addresses import Family, within
from kubeproxy.model.healthchecks import HealthCheck
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import Record

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""Until a port that was taken, or an address that was missing, is tried again."""

_EVERYWHERE = {Family.V4: "0.0.0.0", Family.V6: "::"}


class HealthCheckStatus(Record, frozen=True, kw_only=True):
    """How one Service's health check node port stands, for `kubeproxy status`."""

    family: Family
    service: str
    port: int
    endpoints: int
    trouble: str = ""
    """Why nobody listens."""


class _Open:
    """A Service's port that listens."""

    def __init__(self, port: int, addresses: tuple[str, ...], door: Door) -> None:
        self.port = port
        self.addresses = addresses
        self.door = door


class ServiceHealth:
    """Listens where the newest checks want it. `take` when they change; `run` until cancelled."""

    def __init__(
        self,
        family: Family,
        clock: Clock,
        healthy: Callable[[], bool],
        on_trouble: Callable[[Key, int, str], None],
        most_sockets: int = 1 << 16,
    ) -> None:
        self._family = family
        self._clock = clock
        self._healthy = healthy
        self._on_trouble = on_trouble
        self._most = most_sockets
        self._checks: dict[Key, HealthCheck] = {}
        self._cidrs: tuple[str, ...] = ()
        self._open: dict[Key, _Open] = {}
        self._holders: dict[int, Key] = {}
        """Whose each open port is."""
        self._trouble: dict[Key, str] = {}
        self._where: tuple[tuple[str, ...], str] = ((), "")
        """Where all ports listen, or why there is nowhere."""
        self._moved: set[Key] = set()
        """Services whose port has come, gone or changed."""
        self._wake = asyncio.Event()

    def take(self, changes: Mapping[Key, HealthCheck | None], cidrs: tuple[str, ...], *, full: bool) -> None:
        """Take over checks (None: none any more), all of them if ``full``; ``cidrs`` is where node ports answer.

        Answers on ports that are open change at once; which ports are open follows. Costs what has changed.
        """
        if full:
            changes = {**dict.fromkeys(self._checks), **changes}
        for key, check in changes.items():
            before = self._checks.pop(key, None)
            if check is not None:
                self._checks[key] = check
            if (before.port if before else 0) != (check.port if check else 0):
                self._moved.add(key)
        if self._moved or cidrs != self._cidrs:
            self._cidrs = cidrs
            self._wake.set()

    def status(self) -> tuple[HealthCheckStatus, ...]:
        """Return every check, by the Service's name."""
        return tuple(
            HealthCheckStatus(
                family=self._family,
                service="/".join(key),
                port=check.port,
                endpoints=check.endpoints,
                trouble=self._trouble.get(key, ""),
            )
            for key, check in sorted(self._checks.items())
        )

    @property
    def silent(self) -> int:
        """How many ports should be open and are not."""
        return len(self._trouble)

    async def run(self) -> None:
        """Open and close ports until cancelled; then close all."""
        try:
            while True:
                self._wake.clear()
                await self._reconcile()
                await self._wait()
        finally:
            # To the end: half closed, a port would go on answering.
            await asyncio.shield(self._close(list(self._open)))

    async def _wait(self) -> None:
        """Wait for news, but not for ever while something is missing or addresses may come."""
        if not (self._trouble or (self._cidrs and self._checks)):
            await self._wake.wait()
            return
        waits = {asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(self._clock.sleep(RETRY_SECONDS))}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _reconcile(self) -> None:
        """Look after the ports that moved and those that are missing; after all when addresses have changed."""
        keys, self._moved = self._moved | self._trouble.keys(), set()
        before, self._where = self._where, self._whereabouts()
        addresses, missing = self._where
        if self._where != before:
            keys |= self._checks.keys() | self._open.keys()
        wanted = {key: self._checks[key].port for key in keys if key in self._checks}
        stale = [
            key
            for key in keys & self._open.keys()
            if missing or (self._open[key].port, self._open[key].addresses) != (wanted.get(key), addresses)
        ]
        await self._close(stale)
        trouble = {key: missing for key in wanted if missing}
        for key, port in sorted(wanted.items()):
            if not missing and key not in self._open and (failure := await self._listen(key, port, addresses)):
                trouble[key] = failure
        self._complain(trouble)

    def _whereabouts(self) -> tuple[tuple[str, ...], str]:
        """Return where to listen, and why nowhere; neither while nobody listens."""
        if not self._checks:
            return (), ""
        try:
            addresses = self._addresses()
        except (KernelError, OSError) as error:
            return (), f"cannot tell this node's addresses: {error}"
        return addresses, "" if addresses else f"no address of this node is in {', '.join(self._cidrs)}"

    def _addresses(self) -> tuple[str, ...]:
        """Return where to listen. Raises KernelError, OSError."""
        if not self._cidrs:
            return (_EVERYWHERE[self._family],)
        networks = [ip_network(cidr) for cidr in self._cidrs]
        if all(network.num_addresses == 1 for network in networks):
            return tuple(str(network.network_address) for network in networks)
        own = local_addresses(self._family)
        return tuple(ip for ip in own if any(within(ip, cidr) for cidr in self._cidrs))

    async def _listen(self, key: Key, port: int, addresses: tuple[str, ...]) -> str:
        """Open a port; return why not, "" when it is open."""
        holder = self._holders.get(port)
        if holder is not None:
            return f"Service {'/'.join(holder)} has this port"
        if len(addresses) * (len(self._open) + 1) > self._most:
            return f"this process may have no more than {self._most} sockets for such ports"
        sockets: list[socket.socket] = []
        try:
            sockets += [listen(address, port, only_v6=True) for address in addresses]
        except OSError as error:
            for each in sockets:
                each.close()
            return str(error)
        door = Door(web.Server(self._handler(key), access_log=None, logger=HTTP_LOG))
        await door.open(*sockets)
        self._open[key] = _Open(port, addresses, door)
        self._holders[port] = key
        return ""

    async def _close(self, keys: Iterable[Key]) -> None:
        for key in keys:
            opened = self._open.pop(key)
            del self._holders[opened.port]
            await opened.door.close()

    def _complain(self, trouble: dict[Key, str]) -> None:
        for key, why in trouble.items():
            if self._trouble.get(key) != why:
                port = self._checks[key].port if key in self._checks else 0
                log.warning("health check node port %d of Service %s: %s; trying again", port, "/".join(key), why)
                self._on_trouble(key, port, why)
        self._trouble = trouble

    def _handler(self, key: Key) -> Callable[[web.BaseRequest], Awaitable[web.Response]]:
        async def answer(_: web.BaseRequest) -> web.Response:
            return self._answer(key)

        return answer

    def _answer(self, key: Key) -> web.Response:
        check = self._checks.get(key)
        endpoints = check.endpoints if check is not None else 0
        healthy = self._healthy()
        body = {
            "service": {"namespace": key[0], "name": key[1]},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        }
        return web.Response(
            status=200 if endpoints and healthy else 503,
            text=json.dumps(body, indent="\t"),
            content_type="application/json",
            headers={
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(endpoints),
            },
        )
