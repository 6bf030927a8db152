"""The metrics server (10249): kube-proxy's paths, and /statusz.json, which `kubeproxy status` reads."""

import platform
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from kubeproxy import __version__
from kubeproxy.clock import Clock
from kubeproxy.health import zpages
from kubeproxy.health.http import json_answer
from kubeproxy.health.metrics import CONTENT_TYPE, Metrics
from kubeproxy.health.profiling import Profiling
from kubeproxy.health.statusz import AgentStatus
from kubeproxy.model.objects import Record

Handler = Callable[[web.Request], Awaitable[web.Response]]


class About(Record, frozen=True, kw_only=True):
    """What the server tells of the process, fixed when it starts."""

    mode: str
    configz: Mapping[str, Any] = {}
    """The body of /configz: the configuration in force."""
    flags: Mapping[str, str] = {}
    """For /flagz."""
    profiling: bool = False


class Slis:
    """/metrics/slis: how often the server's own health checks were asked, and how they ended.

    Source: k8s.io/component-base/metrics/prometheus/slis. The one check is upstream's ``ping``, which succeeds.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._registry = CollectorRegistry()
        self._last = Gauge(
            "kubernetes_healthcheck", "The last result of a check", ["name", "type"], registry=self._registry
        )
        self._results = Counter(
            "kubernetes_healthchecks_total",
            "Results of checks",
            ["name", "status", "type"],
            registry=self._registry,
        )

    def pinged(self) -> None:
        """Count an answer of /healthz."""
        self._last.labels(name="ping", type="healthz").set(1)
        self._results.labels(name="ping", status="success", type="healthz").inc()

    async def show(self, _: web.Request) -> web.Response:
        """Answer a scrape."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE})

    async def reset(self, _: web.Request) -> web.Response:
        """Answer DELETE: begin anew."""
        self._reset()
        return web.Response(text="metrics reset\n")


def metrics_app(
    metrics: Metrics, status: Callable[[], AgentStatus], about: About, clock: Clock
) -> web.Application:
    """Serve what kube-proxy's metrics server does; profiles only if ``about`` says so."""
    started, slis = clock.wall(), Slis()
    app = web.Application()

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def show_mode(_: web.Request) -> web.Response:
        return web.Response(text=about.mode, headers={"X-Content-Type-Options": "nosniff"})

    async def show_ok(request: web.Request) -> web.Response:
        slis.pinged()
        verbose = "verbose" in request.query and request.path == "/healthz"
        text = "[+]ping ok\nhealthz check passed\n" if verbose else "ok"
        return web.Response(text=text, headers={"X-Content-Type-Options": "nosniff"})

    async def show_config(_: web.Request) -> web.Response:
        return json_answer(200, about.configz)

    async def show_flags(request: web.Request) -> web.Response:
        return _page(request, zpages.flagz(about.flags))

    async def show_process(request: web.Request) -> web.Response:
        text = zpages.statusz(
            started=started,
            now=clock.wall(),
            runtime=f"{platform.python_implementation()} {platform.python_version()}",
            version=__version__,
            paths=[resource.canonical for resource in app.router.resources()],
        )
        return _page(request, text)

    async def show_status(_: web.Request) -> web.Response:
        return json_answer(200, status())

    routes: dict[str, Handler] = {
        "/healthz": show_ok,
        "/healthz/ping": show_ok,
        "/metrics": show_metrics,
        "/metrics/slis": slis.show,
        "/proxyMode": show_mode,
        "/configz": show_config,
        "/flagz": show_flags,
        "/statusz": show_process,
        "/statusz.json": show_status,
    }
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    app.add_routes([web.delete("/metrics/slis", slis.reset)])
    if about.profiling:
        Profiling().install(app)
    return app


def _page(request: web.Request, text: str) -> web.Response:
    if not zpages.takes_text(request.headers.get("Accept", "")):
        return web.Response(status=406, text="only text/plain is served here\n")
    return web.Response(text=text)
