"""Who we are to an API server, and whom we believe to be one: the seam between a client and its credentials.

A client asks for the identity before every request, so that tokens and certificates may change while it runs, and
says so when the server answers 401. Where they come from is `kubeconfig_credentials.py`'s business.
"""

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec


class Identity(msgspec.Struct, frozen=True):
    """What one request shows to the server. Two are equal when the server would see the same."""

    headers: Mapping[str, str] = MappingProxyType({})
    tls: ssl.SSLContext | None = None
    """Whom to trust, with our certificate; None is the system's authorities and no certificate."""


class Credentials(Protocol):
    """Gives the identity of the moment. Used from one event loop; calls may run concurrently."""

    async def current(self) -> Identity:
        """Return the identity to use now. Raises `Unavailable` when there is none; worth a retry."""
        ...

    async def refused(self, identity: Identity) -> bool:
        """Take note of a 401 to ``identity``; return whether there is another one to try now."""
        ...


class Anonymous:
    """No credentials."""

    async def current(self) -> Identity:
        """See `Credentials.current`."""
        return Identity()

    async def refused(self, identity: Identity) -> bool:
        """See `Credentials.refused`."""
        return False


class StaticToken(Anonymous):
    """One bearer token for good."""

    def __init__(self, token: str) -> None:
        self._identity = Identity(headers={"Authorization": f"Bearer {token}"})

    async def current(self) -> Identity:
        """See `Credentials.current`."""
        return self._identity


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """An API server and how to come in."""

    server: str
    """Its URL, perhaps with a path that stands before every request's own."""
    credentials: Credentials = Anonymous()
    server_name: str = ""
    """The name that its certificate must carry, when it is not the URL's host."""
    proxy: str = ""
    """URL of the HTTP proxy in between."""
    namespace: str = "default"
    """The namespace of the kubeconfig's context."""
