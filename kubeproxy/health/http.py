"""The two HTTP servers of the agent: health (10256) and metrics (10249), kube-proxy's paths and headers.

A port that is taken is no reason to leave a node without Services: it is logged and tried again every 5 s
(kube-proxy's behaviour without --bind-address-hard-fail).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from kubeproxy.clock import Clock
from kubeproxy.health.metrics import CONTENT_TYPE, Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.statusz import AgentStatus
from kubeproxy.store.trouble import in_words

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0

Handler = Callable[[web.Request], Awaitable[web.Response]]


class AddressError(ValueError):
    """A host:port that is none."""


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """Split `host:port`, `[v6]:port` or a bare host. Raises AddressError."""
    host, colon, port = text.rpartition(":")
    if not colon or (text.count(":") > 1 and not text.startswith("[")):
        host, port = text, str(default_port)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise AddressError(f"{text!r}: the port must be a number between 1 and 65535")
    return host.strip("[]"), int(port)


def _json(status: int, body: object) -> web.Response:
    headers = {"X-Content-Type-Options": "nosniff"}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json", headers=headers
    )


def health_app(health: ProxyHealth, metrics: Metrics, clock: Clock) -> web.Application:
    """Serve /healthz and /livez."""

    async def healthz(_: web.Request) -> web.Response:
        status, body = health.healthz(clock.wall())
        metrics.healthz.labels(code=str(status)).inc()
        return _json(status, body)

    async def livez(_: web.Request) -> web.Response:
        status, body = health.livez(clock.wall())
        metrics.livez.labels(code=str(status)).inc()
        return _json(status, body)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/livez", livez)])
    return app


def metrics_app(metrics: Metrics, mode: str, status: Callable[[], AgentStatus]) -> web.Application:
    """Serve /metrics, /proxyMode, /healthz and /statusz.json (what `kubeproxy status` shows)."""

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def show_mode(_: web.Request) -> web.Response:
        return web.Response(text=mode, headers={"X-Content-Type-Options": "nosniff"})

    async def show_ok(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def show_status(_: web.Request) -> web.Response:
        return _json(200, status())

    routes: dict[str, Handler] = {
        "/metrics": show_metrics,
        "/proxyMode": show_mode,
        "/healthz": show_ok,
        "/statusz.json": show_status,
    }
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    return app


async def serve(app: web.Application, address: tuple[str, int], clock: Clock) -> None:
    """Serve until cancelled, retrying while the port is taken."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        complained = False
        while True:
            try:
                await web.TCPSite(runner, *address).start()
                break
            except OSError as error:
                if not complained:
                    log.error("cannot listen on %s:%d: %s; trying again", *address, in_words(error))
                complained = True
                await clock.sleep(RETRY_SECONDS)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
