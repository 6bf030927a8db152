"""Users of the etcd gateway: a name, a password and a key prefix each, in a file; tokens as etcd's simple ones.

As with etcd's own gateway, a user is always a name and a password: no name is taken from a certificate
(https://etcd.io/docs/v3.5/op-guide/authentication/rbac/). A token ends five minutes after it was last used.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping

import msgspec

from kubeproxy.credential_files import csv_rows
from kubeproxy.store.base import InvalidToken, Refused

TOKEN_SECONDS = 300.0
"""etcd's simple-token TTL."""
MAX_TOKENS = 1_000
"""Of one user; one more ends the oldest of his, and nobody else's."""
AUTHENTICATION_FAILED = "authentication failed, invalid user ID or password"
NO_USER = "user name is empty"


class GatewayUser(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what below which keys; prefix "" is all. The password is kept as its SHA-256."""

    name: str
    password: bytes
    prefix: bytes


def parse_users(text: str) -> dict[str, GatewayUser]:
    """Read `name,password,key prefix`, one a line. Raises ValueError that names the line and no password."""
    found: dict[str, GatewayUser] = {}
    for line, row in csv_rows(text):
        if len(row) != 3 or not row[0] or not row[1] or row[0] in found:
            raise ValueError(f"line {line}: must be name,password,key prefix, with a name of its own")
        name, password, prefix = row
        found[name] = GatewayUser(name=name, password=_digest(password), prefix=prefix.encode())
    return found


class GatewayUsers:
    """Turns passwords into tokens and tokens into users. ``now`` is a clock that only grows, in seconds."""

    def __init__(self, users: Mapping[str, GatewayUser], now: Callable[[], float]) -> None:
        self._users = users
        self._now = now
        self._holders: dict[bytes, GatewayUser] = {}
        """By the token's digest."""
        self._ends: dict[str, dict[bytes, float]] = {name: {} for name in users}
        """Of each user's tokens; the one that ends first comes first."""

    def authenticate(self, name: str, password: str) -> str:
        """Return a token. Raises Refused in etcd's words, the same for a wrong name and a wrong password."""
        user = self._users.get(name)
        right = hmac.compare_digest(_digest(password), user.password if user is not None else b"")
        if user is None or not right:
            raise Refused(AUTHENTICATION_FAILED)
        token = secrets.token_urlsafe(24)
        self._keep(_digest(token), user)
        return token

    def user(self, token: str) -> GatewayUser:
        """Return the holder of a token. Raises Refused without one, InvalidToken for one that has ended."""
        if not token:
            raise Refused(NO_USER)
        key = _digest(token)
        user = self._holders.get(key)
        if user is None or self._ends[user.name].pop(key) < self._now():
            self._holders.pop(key, None)
            raise InvalidToken("invalid auth token")
        self._keep(key, user)
        return user

    def _keep(self, key: bytes, user: GatewayUser) -> None:
        now, ends = self._now(), self._ends[user.name]
        self._holders[key], ends[key] = user, now + TOKEN_SECONDS
        while (oldest := next(iter(ends))) and (ends[oldest] < now or len(ends) > MAX_TOKENS):
            del self._holders[oldest], ends[oldest]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
