"""The configuration file changes → the process ends, and whoever supervises it starts it with the new content.

Upstream's way (it has no reload). The file's content is compared, not its events: a write, a rename over it and
the swap of the `..data` link by which kubelet updates a mounted ConfigMap look alike; a touch is no change.
"""

import hashlib
import logging
from pathlib import Path

from kubeproxy.clock import Clock

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the file: one stat; it is read only when that tells of a change."""


class ConfigurationChanged(Exception):
    """The file is another than the one that this process was started with."""


def digest(content: bytes) -> str:
    """Return what two contents are compared by."""
    return hashlib.sha256(content).hexdigest()


async def watch(path: Path, started_with: str, clock: Clock) -> None:
    """Look at a file for ever. Raises ConfigurationChanged when its content is no longer of the digest given.

    A file that is away, or cannot be read, is said once and waited for: kubelet replaces a whole directory.
    """
    known: tuple[int, ...] = ()
    complained = False
    while True:
        try:
            stamp = _stamp(path)
            if stamp != known and _digest_of(path) != started_with:
                raise ConfigurationChanged("content of the proxy server's configuration file was updated")
            known, complained = stamp, False
        except OSError as error:
            if not complained:
                log.warning("configuration file %s: %s; going on with what it said", path, error.strerror)
            complained = True
        await clock.sleep(LOOK_SECONDS)


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest_of(path: Path) -> str:
    return digest(path.read_bytes())
