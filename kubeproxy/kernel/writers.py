"""Through which netlink ports this program writes: what the kernel tells of their changes is no news.

Every message that tells of a change carries the port of the socket that asked for it. A socket of ours knows its
own; a program takes its process number for its first socket, as seen in its process namespace, which is ours.
(The number and the name that nf_tables tells beside it are those of the machine's first namespace.)
"""

import threading
from collections.abc import Iterable


class Writers:
    """The ports of one part of the agent. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writing: set[int] = set()
        self._ended: set[int] = set()

    def begin(self, port: int) -> None:
        """Note that what comes from a port is ours."""
        with self._lock:
            self._writing.add(port)
            self._ended.discard(port)

    def end(self, port: int) -> None:
        """Note that nothing more comes from a port than what the kernel has told already."""
        with self._lock:
            if port in self._writing:
                self._writing.discard(port)
                self._ended.add(port)

    def ours(self) -> frozenset[int]:
        """Return the ports from which what was told so far may be ours."""
        with self._lock:
            return frozenset(self._writing | self._ended)

    def ended(self) -> frozenset[int]:
        """Return those of them from which nothing more will come than what was told already."""
        with self._lock:
            return frozenset(self._ended)

    def forget(self, ended: Iterable[int]) -> None:
        """Take these for others' from now on: all that they caused has been read."""
        with self._lock:
            self._ended.difference_update(ended)
