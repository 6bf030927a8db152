"""The watches that clients hold open: how many at once, for how long, and how slow a reader may be."""

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Any

from aiohttp import web

from kubeproxy.apiserver import status
from kubeproxy.apiserver.media import JSON
from kubeproxy.apiserver.watch import Watcher
from kubeproxy.store.base import StoreError

log = logging.getLogger(__name__)

WRITE_SECONDS = 30
"""A client that does not read for this long is cut off: what waits for it is held in memory."""
WATCH_SECONDS = 1800
"""A watch that names no timeoutSeconds lasts this long, up to twice, as upstream's --min-request-timeout."""
MAX_WATCHES = 15_000
"""Held open at once; one more is told to come back later."""
_SPREAD = 0.618033988749895
"""Steps by the golden ratio fall apart evenly: watches that began together do not end together."""


class Streams:
    """All watches of one server."""

    def __init__(self, limit: int = MAX_WATCHES) -> None:
        self._limit = limit
        self._begun = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.cut_off: Counter[str] = Counter()
        """Watches whose clients did not read, by resource."""

    def stop(self) -> None:
        """End every watch, so that the server can go."""
        for task in self._tasks:
            task.cancel()

    async def serve(self, request: web.Request, watcher: Watcher, what: str, seconds: int) -> web.StreamResponse:
        """Send a watch's events until it ends, by ``seconds`` (0: our own time) or otherwise. Raises 429."""
        if len(self._tasks) >= self._limit:
            raise status.too_many_requests("too many watches, please try again later")
        self._begun += 1
        seconds = seconds or int(WATCH_SECONDS * (1 + self._begun * _SPREAD % 1))
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        try:
            await response.prepare(request)
            async with asyncio.timeout(seconds), contextlib.aclosing(watcher.lines()) as lines:
                async for out in lines:
                    await self._write(request, response, out, what)
        except (TimeoutError, ConnectionResetError):
            pass  # the watch lasted as long as was asked, or the client left: both are its normal ends
        except StoreError as error:
            # The stream has begun, so its end is all that the client can be told; it watches again.
            log.info("a watch of %s ended with the store: %s", what, error)
        finally:
            self._tasks.discard(task)
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, out: bytes, what: str) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(out)
        except TimeoutError:
            self.cut_off[what] += 1
            log.info(
                "a watch of %s by %s was not read for %d s: cut off", request.path, request.remote, WRITE_SECONDS
            )
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError from None
