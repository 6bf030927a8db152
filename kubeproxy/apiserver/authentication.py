"""From a request's credentials to its user: client certificate, then bearer token, then nobody.

A certificate was verified in the TLS handshake, against --client-ca-file. Bad credentials are no credentials of
nobody's: they end the request with 401, as upstream does, also where anonymous requests are allowed.
"""

import logging
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kubeproxy.apiserver import users
from kubeproxy.apiserver.pki import changes
from kubeproxy.apiserver.users import Tokens, User

log = logging.getLogger(__name__)


class Unauthorized(Exception):
    """The credentials are wrong, or there are none and there must be; the text holds nothing secret."""


class TokenFile:
    """--token-auth-file, read again when it changes; a bad one leaves the last good one in force."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ValueError."""
        self._path = path
        self._changed = changes([path])
        self.tokens = self._read()

    def _read(self) -> Tokens:
        try:
            return users.parse_tokens(self._path.read_text("utf-8"))
        except OSError as error:
            raise ValueError(f"token-auth-file {self._path}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"token-auth-file {self._path}: {error}") from None

    def reload(self) -> None:
        """Read the file again if it has changed."""
        if not self._changed():
            return
        try:
            self.tokens = self._read()
        except ValueError as error:
            log.error("the tokens stay as they were until this is mended: %s", error)
        else:
            log.info("%d tokens were read from %s", len(self.tokens), self._path)


class Authenticator:
    """Says who sent a request. ``open_to_all``: everybody is an administrator (a plain port of loopback)."""

    def __init__(
        self,
        *,
        tokens: TokenFile | None = None,
        anonymous: bool = True,
        open_to_all: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``wall`` is the time in seconds since the Unix epoch, by which certificates end."""
        self._file = tokens
        self._anonymous = anonymous
        self._open = open_to_all
        self._wall = wall
        self.loopback_token = secrets.token_urlsafe(32)
        """By which what runs inside this process speaks to its own port."""
        self._own: Tokens = {users.digest(self.loopback_token): users.LOOPBACK}

    @property
    def is_open(self) -> bool:
        """Whether a request without credentials may do everything."""
        return self._open

    def reload(self) -> None:
        """Take up changed tokens."""
        if self._file is not None:
            self._file.reload()

    def user(self, authorization: str, certificate: Mapping[str, Any] | None) -> User:
        """Return the user. Raises Unauthorized."""
        if self._open:
            return users.UNSECURED
        if certificate and ssl.cert_time_to_seconds(certificate["notAfter"]) < self._wall():
            # The handshake checked it; a connection, or a session that is resumed, lives on.
            raise Unauthorized("the client certificate has expired")
        if certificate and (user := users.of_certificate(certificate.get("subject", ()))):
            return user
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return self._by_token(token.strip())
        if not self._anonymous:
            raise Unauthorized("no credentials")
        return users.ANONYMOUS

    def _by_token(self, token: str) -> User:
        key = users.digest(token)
        user = self._own.get(key) or (self._file.tokens.get(key) if self._file is not None else None)
        if user is None:
            raise Unauthorized("unknown bearer token")
        return user
