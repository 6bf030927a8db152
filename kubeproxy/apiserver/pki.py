"""A directory of certificates (--cert-dir), with kubeadm's file names: made once, reused, renewed in time.

    ca.crt, ca.key                  signs what is below and every client certificate that is issued
    apiserver.crt, apiserver.key    what the server shows

Private keys are 0600 from their first byte on, and every file is replaced in one step: a reader never meets half
of one. A pair of which only one half was written (a crash in between) is made anew.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kubeproxy.apiserver.certificates import KeyPair, belongs, is_due, issue_client, issue_serving, make_ca, serves

log = logging.getLogger(__name__)

CA_NAME = "kubernetes"
SERVING_NAME = "kube-apiserver"


class Pki:
    """The certificates below one directory, which is made when it is not there. Raises ValueError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def ca_file(self) -> Path:
        """The CA's certificate."""
        return self._directory / "ca.crt"

    @property
    def serving_files(self) -> tuple[Path, Path]:
        """The serving certificate and its key."""
        return self._directory / "apiserver.crt", self._directory / "apiserver.key"

    def ca(self, now: float) -> KeyPair:
        """Return the CA; ``now`` is in seconds since the Unix epoch."""
        with self._locked():
            return self._ca(now)

    def ensure_serving(self, names: Iterable[str], now: float) -> None:
        """See to it that there is a serving certificate for these names that is not about to expire."""
        wanted = tuple(dict.fromkeys(names))
        with self._locked():
            ca = self._ca(now)
            standing = self._read("apiserver")
            if standing is None or not serves(standing, ca, wanted, now):
                self._write("apiserver", issue_serving(ca, SERVING_NAME, wanted, now))
                log.info("a serving certificate was made in %s", self._directory)

    def client(self, user: str, groups: Iterable[str], now: float) -> KeyPair:
        """Issue a client certificate; nothing is kept of it."""
        return issue_client(self.ca(now), user, groups, now)

    def _ca(self, now: float) -> KeyPair:
        standing = self._read("ca")
        if standing is not None:
            if is_due(standing, now):
                log.warning("the CA in %s nears its end: remove it and hand out new credentials", self._directory)
            return standing
        if self.ca_file.exists():
            # Every credential handed out is signed by it: not ours to replace.
            raise ValueError(f"{self.ca_file} has no usable key beside it: restore ca.key, or remove both")
        made = make_ca(CA_NAME, now)
        self._write("ca", made)
        log.info("a certificate authority was made in %s", self._directory)
        return made

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two servers that start at once must not sign by two CAs. Raises ValueError for what cannot be had."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise ValueError(f"cert-dir {self._directory}: {error.strerror}") from None

    def _read(self, name: str) -> KeyPair | None:
        certificate, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        try:
            pair = KeyPair(certificate=certificate.read_bytes(), key=key.read_bytes())
            if belongs(pair):
                return pair
            why = "the key is not the certificate's"
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            why = str(error)
        log.warning("%s and its key cannot be used: %s", certificate, why)
        return None

    def _write(self, name: str, pair: KeyPair) -> None:
        write_private(self._directory / f"{name}.key", pair.key)
        write_private(self._directory / f"{name}.crt", pair.certificate, mode=0o644)


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step; nobody but its owner could ever read it. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def changes(paths: Iterable[Path]) -> Callable[[], bool]:
    """Return a function that says whether any of these files has changed since it was last asked."""
    watched = tuple(paths)

    def look() -> list[tuple[int, int, int]]:
        found = []
        for path in watched:
            try:
                stat = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found

    last = look()

    def changed() -> bool:
        nonlocal last
        now = look()
        if now == last:
            return False
        last = now
        return True

    return changed
