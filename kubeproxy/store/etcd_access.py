"""What an etcd cluster asks of its clients: TLS and a user's password, as the flags of kube-apiserver name them.

With ``certfile`` and ``keyfile`` the client shows a certificate; ``cafile`` says whom it trusts (else: the
system's authorities). etcd takes no user's name from a certificate that came through its JSON gateway
(https://etcd.io/docs/v3.5/op-guide/authentication/rbac/), so a user is always a name and a password.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec


class EtcdAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of PEM files, and a user; "" is none."""

    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        """Show no password: settings end up in logs and tracebacks."""
        return f"EtcdAccess(cafile={self.cafile!r}, certfile={self.certfile!r}, username={self.username!r})"

    def check(self, endpoints: Sequence[str]) -> None:
        """Refuse what cannot work. Raises ValueError with the flag's name."""
        for endpoint in endpoints:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"etcd endpoint {endpoint[:128]!r} is no URL such as http://127.0.0.1:2379")
            if parts.scheme == "http" and (self.cafile or self.certfile or self.keyfile):
                raise ValueError(f"etcd TLS files are given, and {endpoint} is no https URL")
        if bool(self.certfile) != bool(self.keyfile):
            raise ValueError("etcd-certfile and etcd-keyfile go together")
        if bool(self.username) != bool(self.password):
            raise ValueError("etcd-username and etcd-password go together")
        if self.cafile or self.certfile:
            self.tls()

    def tls(self) -> ssl.SSLContext:
        """Return what https connections use. Raises ValueError for a file that is missing or no PEM."""
        for name in ("cafile", "certfile", "keyfile"):
            path = getattr(self, name)
            if path:
                read_file(f"etcd-{name}", path)
        try:
            context = ssl.create_default_context(cafile=self.cafile or None)
        except ssl.SSLError as error:
            raise ValueError(f"etcd-cafile {self.cafile}: no PEM certificates ({error.reason})") from None
        if self.certfile:
            try:
                # A password of "": an encrypted key is an error here and no question on the terminal.
                context.load_cert_chain(self.certfile, self.keyfile, password="")
            except ssl.SSLError as error:
                what = f"etcd-certfile {self.certfile} with etcd-keyfile {self.keyfile}"
                raise ValueError(f"{what}: {error.reason or error}") from None
        return context


def read_file(flag: str, path: str) -> bytes:
    """Read a file that a flag names. Raises ValueError that says so in one line."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{flag} {path}: {error.strerror}") from None
