"""What every request passes first: who sends it, may he, and has he sent all of it in time.

Refusals are counted; a flood of them is one log line in ten seconds, and no line holds a token.
"""

import asyncio
import logging
from collections.abc import Sequence

from aiohttp import web

from kubeproxy.apiserver import media, status
from kubeproxy.apiserver.authentication import Authenticator, Unauthorized
from kubeproxy.apiserver.authorization import Attributes, Decision, decide, forbidden
from kubeproxy.apiserver.kinds import kind_of
from kubeproxy.apiserver.options import is_true
from kubeproxy.apiserver.registry import Registry
from kubeproxy.apiserver.routes import Place
from kubeproxy.apiserver.users import User
from kubeproxy.clock import Clock
from kubeproxy.local_only import foreign_name
from kubeproxy.logs import Turns
from kubeproxy.store import objects
from kubeproxy.store.resources import PODS

log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""How long a client may take to send a request's body."""
_WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_IMPERSONATION = "impersonate-"


class Refusals:
    """Counts requests that were refused, by HTTP status, and logs at most one in `FLOOD_SECONDS`."""

    def __init__(self, clock: Clock) -> None:
        self._turns = Turns(clock.now)
        self._unsaid = 0
        self.counts = {401: 0, 403: 0}

    def note(self, code: int, request: web.Request, why: str) -> None:
        """Count one; ``why`` holds no secret."""
        self.counts[code] += 1
        if not self._turns.take():
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        self._unsaid = 0
        log.warning("%d to %s: %s %s: %s%s", code, request.remote, request.method, request.path, why, more)


class Gate:
    """Authentication, authorisation and the reading of bodies, before a request is dispatched."""

    def __init__(
        self, authenticator: Authenticator, registry: Registry, clock: Clock, *, local_only: bool = False
    ) -> None:
        """``local_only``: refuse what a browser sends for a foreign page, where no credentials protect."""
        self._authenticator = authenticator
        self._registry = registry
        self._local_only = local_only
        self.refusals = Refusals(clock)
        self.known = 0
        """Requests whose sender is known, or may be nobody."""
        self.allowed = 0

    async def admit(self, request: web.Request, segments: Sequence[str], place: Place | None) -> User:
        """Return the user, after the whole body has come. Raises ApiProblem 401, 403, 408."""
        user = self._user(request)
        self.known += 1
        if self._local_only:
            self._check_local(request)
        wanted = attributes(request, segments, place)
        if any(header.lower().startswith(_IMPERSONATION) for header in request.headers):
            name = request.headers.get(f"{_IMPERSONATION}user", "").encode("utf-8", "replace").decode()
            users = Attributes(verb="impersonate", resource="users", name=name)
            raise self._forbidden(request, user, users)
        decision = decide(user, wanted)
        if decision is Decision.DENIED:
            raise self._forbidden(request, user, wanted)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise status.unsupported_media_type("bodies as they are, without a Content-Encoding")
        await self._read_body(request)
        if decision is not Decision.ALLOWED and not await self._owns(request, user.node, decision, wanted):
            raise self._forbidden(request, user, wanted)
        self.allowed += 1
        return user

    def _user(self, request: web.Request) -> User:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        try:
            return self._authenticator.user(request.headers.get("Authorization", ""), certificate)
        except Unauthorized as error:
            self.refusals.note(401, request, str(error))
            raise status.unauthorized() from None

    def _check_local(self, request: web.Request) -> None:
        name = foreign_name(request.host, request.headers.get("Origin"))
        if name is not None:
            why = f"a request for or from {name[:200]!r}, on a port for local programs only"
            self.refusals.note(403, request, why)
            raise status.forbidden("", "", "", why)

    def _forbidden(self, request: web.Request, user: User, wanted: Attributes) -> status.ApiProblem:
        problem = forbidden(user, wanted)
        self.refusals.note(403, request, problem.message)
        return problem

    async def _read_body(self, request: web.Request) -> None:
        if not request.can_read_body:
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await request.read()  # kept by the request: the handlers read it from there
        except TimeoutError:
            raise status.timeout(f"the request's body did not come within {BODY_SECONDS:g} s") from None

    async def _owns(self, request: web.Request, node: str, decision: Decision, wanted: Attributes) -> bool:
        """Look at the object that only its own node's agent may write."""
        if decision is Decision.OWN_POD:
            # A 404 is the answer: by the time of the write the name may be another node's pod.
            kv = await self._registry.read(kind_of(PODS), wanted.namespace, wanted.name)
            bound: object = objects.decode(kv)["spec"].get("nodeName")
            return bound == node
        body = media.decode_body(await request.read(), request.headers.get("Content-Type", ""))
        meta = body.get("metadata") if isinstance(body, dict) else None
        return isinstance(meta, dict) and meta.get("name") == node


def attributes(request: web.Request, segments: Sequence[str], place: Place | None) -> Attributes:
    """Return what a request asks for; a path that is not served counts by its words, as upstream's RequestInfo."""
    group = segments[1] if len(segments) > 3 and segments[0] == "apis" else ""
    rest = segments[3:] if group else segments[2:] if segments and segments[0] == "api" else ()
    if not rest:
        verb = "get" if request.method == "HEAD" else request.method.lower()
        return Attributes(verb=verb, path="/" + "/".join(segments))
    if place is not None:
        namespace, resource, name, sub = place.namespace, place.kind.plural, place.name, place.subresource
    else:
        namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 2 else ""
        resource, name, sub = (*(rest[2:] if namespace else rest), "", "")[:3]
    return Attributes(
        verb=_verb(request, name), group=group, resource=resource, subresource=sub, namespace=namespace, name=name
    )


def _verb(request: web.Request, name: str) -> str:
    if request.method in ("GET", "HEAD"):
        if is_true(request.query, "watch"):
            return "watch"
        return "get" if name else "list"
    if request.method == "DELETE" and not name:
        return "deletecollection"
    return _WRITES.get(request.method, request.method.lower())
