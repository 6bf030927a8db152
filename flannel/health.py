"""/healthz: the daemon runs. /readyz: subnet.env is written, the devices stand, the leases are being watched.

What is not ready says why, so that `kubectl describe pod` does.
"""

from collections.abc import Callable

from aiohttp import web


def health_app(missing: Callable[[], str]) -> web.Application:
    """Return the application with flanneld's two answers."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="flanneld is running")

    async def readyz(request: web.Request) -> web.Response:
        why_not = missing()
        if why_not:
            return web.Response(status=503, text=f"flanneld is not ready: {why_not}")
        return web.Response(text="flanneld is ready")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


async def serve_health(address: str, port: int, missing: Callable[[], str]) -> web.AppRunner:
    """Serve on an address and return what `cleanup` ends it with. Raises OSError when it is taken."""
    runner = web.AppRunner(health_app(missing), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    return runner
