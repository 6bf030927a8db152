"""A running configuration: server blocks → chains, listeners, pages and tasks; and its replacement on reload."""

import asyncio
import hashlib
import logging
import os
import socket
import sys
from collections.abc import Awaitable
from pathlib import Path

from dns.chain import Build, Page, Runtime
from dns.corefile import CorefileError, ServerBlock, parse
from dns.dispatch import Dispatcher
from dns.listen import Listener
from dns.metrics import Metrics
from dns.plugins import set_up
from kubeproxy.clock import Clock

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
"""How long a reload waits for a new configuration to know the cluster, before it takes over (startup_timeout)."""

Place = tuple[str, int]


class Plan:
    """A Corefile that is good: what will listen where, and what runs beside."""

    def __init__(self, blocks: list[ServerBlock], runtime: Runtime) -> None:
        self.builds = [Build(block, runtime) for block in blocks]
        for build in self.builds:
            set_up(build)
        self.places = self._places()
        self.pages: list[Page] = [page for build in self.builds for page in build.pages]

    def _places(self) -> dict[Place, dict[str, Build]]:
        """Which blocks serve which zones at which address and port."""
        places: dict[Place, dict[str, Build]] = {}
        for build in self.builds:
            for zone, port in build.block.zones:
                for address in build.binds or _every_address():
                    zones = places.setdefault((address, port), {})
                    if zone in zones:
                        where = build.block.where
                        message = f"cannot serve dns://{zone}:{port} - it is already defined"
                        raise CorefileError(f"{where.file}:{where.line} - {message}")
                    zones[zone] = build
        return places


def _every_address() -> tuple[str, ...]:
    return ("0.0.0.0", "::") if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else ("0.0.0.0",)


class Instance:
    """The resolver: starts from a Corefile, follows its changes, stops."""

    def __init__(self, corefile: str, default_port: int, clock: Clock, *, quiet: bool = False) -> None:
        self._corefile = corefile
        self._default_port = default_port
        self._clock = clock
        self._quiet = quiet
        self.metrics = Metrics()
        self._runtime = Runtime(clock, self.metrics, corefile, self.reload)
        self._digest = b""
        self._plan = Plan([], self._runtime)
        self._listeners: dict[Place, Listener] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._sites: object | None = None
        self._reloading = asyncio.Lock()

    @property
    def lameduck(self) -> float:
        """Seconds to go on answering after the signal to end."""
        return max((build.lameduck for build in self._plan.builds), default=0.0)

    async def start(self) -> None:
        """Read the Corefile and serve it. Raises CorefileError or OSError; nothing is left open then."""
        plan, self._digest = self._read()
        await self._listen(plan)
        await self._run(plan)
        self._announce()
        try:
            await self._open_pages(plan)
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close everything."""
        await self._close_pages()
        await _cancel(self._tasks)
        for listener in self._listeners.values():
            await listener.stop()
        self._listeners.clear()

    async def reload(self) -> None:
        """Take the Corefile's new content, if there is one. One that is bad or cannot start changes nothing."""
        async with self._reloading:  # A signal and the reload plugin may want it at once.
            await self._reload()

    async def _reload(self) -> None:
        try:
            plan, digest = self._read(unless=self._digest)
        except (CorefileError, OSError) as error:
            log.error("Corefile changed but reload failed: %s; the last good one goes on", error)
            self.metrics.count("coredns_reload_failed", "Counter of the number of failed reload attempts.")
            return
        if digest == self._digest:
            return
        self._digest = digest
        log.info("Reloading")
        try:
            await self._replace(plan)
        except OSError as error:
            log.error("reload failed: %s; the last good Corefile goes on", error)
            self.metrics.count("coredns_reload_failed", "Counter of the number of failed reload attempts.")
            return
        log.info("Reloading complete")

    def _read(self, unless: bytes = b"") -> tuple[Plan, bytes]:
        text = Path(self._corefile).read_text("utf-8", "replace")
        digest = hashlib.sha512(text.encode()).digest()
        if digest == unless:
            return self._plan, digest
        blocks = parse(text, file=self._corefile, environment=os.environ, default_port=self._default_port)
        if not blocks:
            raise CorefileError(f"{self._corefile}: no server block in it")
        return Plan(blocks, self._runtime), digest

    async def _listen(self, plan: Plan) -> None:
        """Open what is new, hand the rest over; on failure everything stays as it was."""
        fresh: dict[Place, Listener] = {}
        dispatchers = {
            place: Dispatcher(builds, place[1], self._clock, self.metrics) for place, builds in plan.places.items()
        }
        try:
            for place, dispatcher in dispatchers.items():
                if place not in self._listeners:
                    fresh[place] = Listener(*place, dispatcher)
                    await fresh[place].start()
        except OSError:
            for listener in fresh.values():
                await listener.stop()
            raise
        for place in list(self._listeners):
            if place in dispatchers:
                self._listeners[place].dispatcher = dispatchers[place]
            else:
                await self._listeners.pop(place).stop()
        self._listeners |= fresh

    async def _run(self, plan: Plan) -> None:
        self._plan = plan
        for build in plan.builds:
            addresses = _reached_at(build)
            for tell in build.on_bound:
                tell(addresses)
            for task in build.tasks:
                self._tasks.append(asyncio.create_task(_watched(task())))

    async def _replace(self, plan: Plan) -> None:
        old_tasks, self._tasks = self._tasks, []
        old_plan = self._plan
        await self._run(plan)
        await self._until_ready(plan)
        await self._close_pages()
        try:
            await self._open_pages(plan)
            await self._listen(plan)
        except OSError:
            await self._close_pages()
            await _cancel(self._tasks)
            self._tasks, self._plan = old_tasks, old_plan
            await self._open_pages(old_plan)
            raise
        # The task that reloads is one of the old ones: it must not wait for its own end.
        await _cancel([task for task in old_tasks if task is not asyncio.current_task()])
        current = asyncio.current_task()
        if current in old_tasks and current is not None:
            current.cancel()

    async def _until_ready(self, plan: Plan) -> None:
        end = self._clock.now() + SYNC_SECONDS
        checks = [check for build in plan.builds for _, check in build.readiness]
        while not all(check() for check in checks) and self._clock.now() < end:
            await self._clock.sleep(0.05)

    async def _open_pages(self, plan: Plan) -> None:
        from dns.pages import Sites

        sites = Sites(plan.pages)
        self._sites = sites
        await sites.start()

    async def _close_pages(self) -> None:
        if self._sites is not None:
            from dns.pages import Sites

            assert isinstance(self._sites, Sites)
            await self._sites.stop()
            self._sites = None

    def _announce(self) -> None:
        if self._quiet:
            return
        for build in self._plan.builds:
            for zone, port in build.block.zones:
                sys.stdout.write(f"{zone}:{port}\n")
        sys.stdout.flush()


def _reached_at(build: Build) -> tuple[str, ...]:
    """The addresses at which others reach a block: what it binds, or what this machine sends from."""
    addresses = build.binds or [
        address for family, peer in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
        if (address := _source_towards(family, peer))
    ]  # fmt: skip
    return tuple(address for address in addresses if not address.startswith("127.") and address != "::1")


def _source_towards(family: socket.AddressFamily, peer: str) -> str:
    """The address that a packet to a peer would leave from; nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as channel:
            channel.connect((peer, 53))
            return str(channel.getsockname()[0])
    except OSError:
        return ""


async def _watched(work: Awaitable[None]) -> None:
    """Run a plugin's task; its unexpected end is a fault of ours that must be seen."""
    try:
        await work
    except Exception:
        log.exception("a plugin's task ended; what it did no longer happens")


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
