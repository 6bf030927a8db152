"""The HTTP pages of health, ready and prometheus, on aiohttp; imported late, for it loads slowly."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from dns.chain import Page
from kubeproxy.store.trouble import in_words


class Sites:
    """The pages of one configuration, each on its address."""

    def __init__(self, pages: list[Page]) -> None:
        self._pages: dict[str, list[Page]] = {}
        for page in pages:
            self._pages.setdefault(page.address, []).append(page)
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Open all. Raises OSError with the address in its text."""
        for address, pages in self._pages.items():
            app = web.Application()
            for path in dict.fromkeys(page.path for page in pages):
                app.router.add_get(path, _handler([page for page in pages if page.path == path]))
            runner = web.AppRunner(app, access_log=None, handle_signals=False)
            await runner.setup()
            self._runners.append(runner)
            host, _, port = address.rpartition(":")
            site = web.TCPSite(runner, host.strip("[]") or None, int(port), reuse_address=True)
            try:
                await site.start()
            except OSError as error:
                raise OSError(f"listen tcp {address}: {in_words(error)}") from None

    async def stop(self) -> None:
        """Close all."""
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        self._runners.clear()


def _handler(pages: list[Page]) -> Callable[[web.Request], "asyncio.Future[web.Response]"]:
    """Serve what several blocks say on one page: the first that is not fine (200) speaks for all."""

    async def serve(_: web.Request) -> web.Response:
        answers = [page.render() for page in pages]
        status, kind, body = next((answer for answer in answers if answer[0] != 200), answers[0])
        return web.Response(status=status, body=body, headers={"Content-Type": kind})

    return serve  # type: ignore[return-value]
