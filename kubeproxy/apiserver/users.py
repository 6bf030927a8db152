"""Who a request is from: upstream's names of users and groups, and the file of static tokens. Pure.

Tokens are kept and looked up by their SHA-256: how long a look-up takes says nothing about a token, and a dump of
the process' memory holds none.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kubeproxy.credential_files import csv_rows

AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
MASTERS = "system:masters"
NODES = "system:nodes"
NODE_PREFIX = "system:node:"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated (or anonymous) user, as k8s.io/apiserver's user.Info."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """The node whose agent this is, or ""."""
        is_agent = NODES in self.groups and self.name.startswith(NODE_PREFIX)
        return self.name.removeprefix(NODE_PREFIX) if is_agent else ""

    def info(self) -> dict[str, Any]:
        """Return the UserInfo of authentication.k8s.io/v1."""
        found: dict[str, Any] = {"username": self.name}
        if self.uid:
            found["uid"] = self.uid
        return found | ({"groups": list(self.groups)} if self.groups else {})


ANONYMOUS = User(name="system:anonymous", groups=(UNAUTHENTICATED,))
UNSECURED = User(name="system:unsecured", groups=(MASTERS, AUTHENTICATED))
"""Everybody, on a plain port of loopback (upstream's insecure serving)."""
LOOPBACK = User(name="system:apiserver", groups=(MASTERS, AUTHENTICATED))
"""What runs inside the server itself."""

Tokens = Mapping[bytes, User]
"""Users by the SHA-256 of their token."""


def digest(token: str) -> bytes:
    """Return the key of a token in `Tokens`."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def parse_tokens(text: str) -> Tokens:
    """Read upstream's token file: `token,user,uid,"group1,group2"`, one a line.

    Raises ValueError, which names the line and never the token.
    """
    found: dict[bytes, User] = {}
    for line, row in csv_rows(text):
        key, user = _row(row, line)
        if key in found:
            raise ValueError(f"line {line}: the token stands on an earlier line too")
        found[key] = user
    return found


def _row(row: list[str], line: int) -> tuple[bytes, User]:
    fields = [field.strip() for field in row]
    if not 3 <= len(fields) <= 4 or not fields[0] or not fields[1]:
        raise ValueError(f'line {line}: must be token,user,uid or token,user,uid,"group1,group2"')
    groups = [group.strip() for group in fields[3].split(",")] if len(fields) == 4 else []
    return digest(fields[0]), authenticated(fields[1], (group for group in groups if group), fields[2])


def authenticated(name: str, groups: Iterable[str], uid: str = "") -> User:
    """Return a user who has shown who he is."""
    return User(name=name, uid=uid, groups=tuple(dict.fromkeys((*groups, AUTHENTICATED))))


def of_certificate(subject: Iterable[Iterable[tuple[str, str]]]) -> User | None:
    """Return the user of a verified client certificate, from its subject as `ssl` gives it; None without a CN."""
    attributes = [pair for relative in subject for pair in relative]
    names = [value for key, value in attributes if key == "commonName"]
    groups = [value for key, value in attributes if key == "organizationName"]
    return authenticated(names[-1], groups) if names and names[-1] else None
