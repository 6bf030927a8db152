"""The health server (10256), kube-proxy's paths and headers, and how it and the metrics server are run.

A port that is taken is no reason to leave a node without Services: it is logged and tried again every 5 s, unless
--bind-address-hard-fail asks for the end instead.
"""

import asyncio
import logging
import socket

import msgspec
from aiohttp import web

from kubeproxy.clock import Clock
from kubeproxy.health.doors import END_SECONDS, Door, listen_on
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.http_log import HTTP_LOG

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
WHERE_TO_LOOK = "Is kubeproxy running on this node, with this --metrics-bind-address?"
"""For the commands that ask the agent, when it does not answer."""


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


def json_answer(status: int, body: object) -> web.Response:
    """Answer in JSON."""
    headers = {"X-Content-Type-Options": "nosniff"}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json", headers=headers
    )


def health_app(health: ProxyHealth, metrics: Metrics, clock: Clock) -> web.Application:
    """Serve /healthz and /livez."""

    async def healthz(_: web.Request) -> web.Response:
        status, body = health.healthz(clock.wall())
        metrics.healthz.labels(code=str(status)).inc()
        return json_answer(status, body)

    async def livez(_: web.Request) -> web.Response:
        status, body = health.livez(clock.wall())
        metrics.livez.labels(code=str(status)).inc()
        return json_answer(status, body)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/livez", livez)])
    return app


async def serve(app: web.Application, address: tuple[str, int], clock: Clock, *, hard_fail: bool = False) -> None:
    """Serve until cancelled, retrying while the port is taken. Raises OSError then if ``hard_fail``."""
    runner = web.AppRunner(app, access_log=None, logger=HTTP_LOG, shutdown_timeout=END_SECONDS)
    await runner.setup()
    assert runner.server is not None
    door = Door(runner.server)
    try:
        await door.open(await _listening(address, clock, hard_fail))
        await asyncio.Event().wait()
    finally:
        await door.close()
        await runner.cleanup()


async def _listening(address: tuple[str, int], clock: Clock, hard_fail: bool) -> socket.socket:
    complained = False
    while True:
        try:
            return listen_on(*address)
        except OSError as error:
            if hard_fail:
                raise
            if not complained:
                log.error("%s; trying again", error)
            complained = True
            await clock.sleep(RETRY_SECONDS)
