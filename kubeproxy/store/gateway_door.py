"""What requests to the gateway pass before they are answered: bodies that come, sign-ins that are no guesses."""

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

from kubeproxy.logs import Turns
from kubeproxy.store.base import Refused, StoreError

log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""How long a client may take to send a request's body."""
SIGN_IN_BYTES = 4096
SIGN_IN_SECONDS = 0.1
"""Between two sign-ins from one address, once it has had its burst: what etcd's bcrypt comes to."""
SIGN_IN_BURST = 1.0
"""Seconds' worth of sign-ins that an address may make at once."""
SIGN_IN_QUEUE = 5.0
"""An address whose next sign-in would wait longer is told to come back later."""


class TooManyRequests(StoreError):
    """Later, perhaps; in etcd's words."""


async def read_body(request: web.Request, limit: int | None = None) -> bytes:
    """Read all of a request, from a client who may send it. Raises Refused for a late, long or packed one."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("a request's body must come without a Content-Encoding")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await (request if limit is None else request.clone(client_max_size=limit)).read()
    except TimeoutError:
        raise Refused(f"the request's body did not come within {BODY_SECONDS:g} s") from None


class SignIns:
    """How often each address may try a password. ``now`` is a clock that only grows, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._free: dict[str, float] = {}
        """When the last sign-in of an address had its turn, and will have had it."""
        self._log_turns = Turns(now)
        self.failures = 0

    def turn(self, address: str) -> float:
        """Take the address' next turn; return in how many seconds it comes. Raises TooManyRequests."""
        now = self._now()
        self._free = {each: free for each, free in self._free.items() if free > now - SIGN_IN_BURST}
        free = self._free.get(address, now - SIGN_IN_BURST) + SIGN_IN_SECONDS
        if free > now + SIGN_IN_QUEUE:
            raise TooManyRequests("too many requests")
        self._free[address] = free
        return max(free - now, 0.0)

    def failed(self, address: str, name: str) -> None:
        """Count a wrong name or password, and say so once in `FLOOD_SECONDS`."""
        self.failures += 1
        if self._log_turns.take():
            log.warning("no sign-in for user %.80r from %s (%d since the start)", name, address, self.failures)
