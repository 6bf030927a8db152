"""Requests to an etcd cluster by HTTP: which endpoint, what a failure means, who we are.

Calls go to the endpoint that answered last; one that cannot be reached is passed over for the next. A write is
only repeated elsewhere when it was certainly not sent; otherwise the caller gets Unavailable and decides.

With a user, every request carries a token that etcd gave for the password. Tokens end (five minutes without
use, a restart, a change of any user's rights), so a request that is refused for its token is repeated once with
a new one: etcd did not look at it before. A wrong password is `Unauthenticated` at once.
"""

import asyncio
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import aiohttp
import msgspec

from kubeproxy.store import etcd_codec as codec
from kubeproxy.store.base import NoSpace, Refused, Unauthenticated, Unavailable
from kubeproxy.store.etcd_access import EtcdAccess
from kubeproxy.store.trouble import in_words

T = TypeVar("T")

_HAS_LEADER = MappingProxyType({"Grpc-Metadata-hasleader": "true"})
"""rpctypes.MetadataRequireLeaderKey: a member that lost its cluster ends the stream instead of going silent."""


class NotSent(Unavailable):
    """No connection: the request cannot have had an effect."""


class EtcdCalls:
    """The calls of one client. Endpoints are URLs; `call_seconds` bounds each request, not each stream."""

    def __init__(self, endpoints: Sequence[str], access: EtcdAccess, call_seconds: float) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        access.check(endpoints)
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._access = access
        secure = any(endpoint.startswith("https:") for endpoint in endpoints)
        self._tls = access.tls() if secure else True
        self._preferred = 0
        self._timeout = aiohttp.ClientTimeout(total=call_seconds)
        self._http: aiohttp.ClientSession | None = None
        self._token: str | None = None
        """None: not asked for yet; "": etcd's authentication is off."""
        self._signing_in = asyncio.Lock()
        self.closed = False

    async def close(self) -> None:
        """End all connections."""
        self.closed = True
        if self._http is not None:
            await self._http.close()

    async def read(self, path: str, request: dict[str, Any], kind: type[T]) -> T:
        """Ask each endpoint in turn: a read may be repeated."""
        failed: Unavailable | None = None
        for _ in range(len(self._endpoints) + 1):
            endpoint = self._endpoint()
            try:
                return await self.call(endpoint, path, request, kind)
            except Unavailable as error:
                failed = error
                self._pass_over(endpoint)
        assert failed is not None
        raise failed

    async def write(self, path: str, request: dict[str, Any], kind: type[T]) -> T:
        """Ask each endpoint in turn until one may have got it."""
        failed: NotSent | None = None
        for _ in self._endpoints:
            endpoint = self._endpoint()
            try:
                return await self.call(endpoint, path, request, kind)
            except NotSent as error:
                failed = error
                self._pass_over(endpoint)
            except NoSpace:
                raise  # The cluster's state, and not this endpoint's.
            except Unavailable:
                self._pass_over(endpoint)
                raise
        assert failed is not None
        raise failed

    async def call(self, endpoint: str, path: str, request: dict[str, Any], kind: type[T]) -> T:
        """Ask one endpoint."""
        token = await self._signed_in(endpoint)
        try:
            return await self._call(endpoint, path, request, kind, token)
        except codec.TokenRefused as error:
            if not self._access.username:
                raise Unauthenticated(f"etcd {endpoint} wants a user and a password: {error}") from None
        return await self._call(endpoint, path, request, kind, await self._sign_in(endpoint, token))

    async def _call(
        self, endpoint: str, path: str, request: dict[str, Any], kind: type[T], token: str | None
    ) -> T:
        body = msgspec.json.encode(request)
        headers = _authorization(token)
        try:
            async with self._session().post(
                endpoint + path, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                answer = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"etcd {endpoint}: {in_words(error)}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"etcd {endpoint}: {in_words(error)}") from error
        if response.status == 200:
            return codec.decode(answer, kind)
        raise codec.error(response.status, answer)

    async def stream(self, path: str, request: dict[str, Any], key: bytes) -> tuple[str, aiohttp.ClientResponse]:
        """Open a stream at the first endpoint that gives one; return it with its endpoint."""
        failed: Unavailable | None = None
        for _ in self._endpoints:
            endpoint = self._endpoint()
            try:
                if self._access.username:
                    # A stream says nothing of a token that has ended ("permission denied"): a call renews it.
                    await self.call(endpoint, "/v3/kv/range", codec.probe(key), codec.RangeResponse)
                return endpoint, await self._stream(endpoint, path, request)
            except Unavailable as error:
                failed = error
                self._pass_over(endpoint)
        assert failed is not None
        raise failed

    async def _stream(self, endpoint: str, path: str, request: dict[str, Any]) -> aiohttp.ClientResponse:
        body = msgspec.json.encode(request)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.total)
        headers = {**_HAS_LEADER, **_authorization(self._token)}
        try:
            async with asyncio.timeout(self._timeout.total):
                response = await self._session().post(
                    endpoint + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"etcd {endpoint}: {in_words(error)}") from error
        if response.status == 200:
            return response
        try:
            raise codec.error(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"etcd {endpoint}: {in_words(error)}") from error
        finally:
            response.close()

    # Who we are

    async def _signed_in(self, endpoint: str) -> str | None:
        if not self._access.username or self._token is not None:
            return self._token
        return await self._sign_in(endpoint, None)

    async def _sign_in(self, endpoint: str, spent: str | None) -> str | None:
        """Get a token in place of ``spent``, unless another call has done so meanwhile."""
        async with self._signing_in:
            if self._token == spent:
                self._token = await self._authenticate(endpoint)
            return self._token

    async def _authenticate(self, endpoint: str) -> str:
        request = {"name": self._access.username, "password": self._access.password}
        try:
            answer = await self._call(endpoint, "/v3/auth/authenticate", request, codec.AuthenticateResponse, None)
        except NotSent:
            raise
        except Unavailable as error:
            raise NotSent(str(error)) from error  # The request that needs the token was not sent.
        except codec.AuthNotEnabled:
            return ""
        except Refused as error:
            raise Unauthenticated(f"etcd {endpoint}, user {self._access.username!r}: {error}") from None
        return answer.token

    # Connections

    def _session(self) -> aiohttp.ClientSession:
        if self.closed:
            raise Unavailable("the etcd client is closed")
        if self._http is None:
            # No limit: each watch holds a connection.
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
                headers={"Content-Type": "application/json"},
            )
        return self._http

    def _endpoint(self) -> str:
        return self._endpoints[self._preferred]

    def _pass_over(self, endpoint: str) -> None:
        """Prefer the next endpoint, unless another call has already moved on."""
        if endpoint == self._endpoint():
            self._preferred = (self._preferred + 1) % len(self._endpoints)


def _authorization(token: str | None) -> dict[str, str]:
    return {"Authorization": token} if token else {}
