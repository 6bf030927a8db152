"""What the kernel has told of others' changes of the table, until they are undone.

The event loop notes what it hears, the worker thread takes it.
"""

import threading
from typing import NamedTuple

from kubeproxy.dataplane.nftables.edits import Edits
from kubeproxy.dataplane.nftables.sets import DYNAMIC
from kubeproxy.kernel.nf_tables.base import NAME
from kubeproxy.kernel.notice_messages import TableNotice


class Taken(NamedTuple):
    """What `Journal.take` returns."""

    edits: Edits
    hearing: int
    """Since when nothing was missed (see `Journal.hearing`)."""
    until: int
    """The generation up to which all of it was told, 0 when no transaction was."""


class Journal:
    """See `kernel.notices.Journal`. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hearing = self._until = 0
        self._edits = Edits()

    @property
    def hearing(self) -> int:
        """Since when nothing was missed: another number each time, 0 while nobody has listened."""
        return self._hearing

    def opened(self) -> None:
        """See `kernel.notices.Journal.opened`."""
        self.lost()

    def lost(self) -> None:
        """See `kernel.notices.Journal.lost`."""
        with self._lock:
            self._hearing += 1
            self._until = 0
            self._edits = Edits()

    def note(self, change: TableNotice) -> None:
        """See `kernel.notices.Journal.note`; what packets fill is nobody's business."""
        if change.table == NAME and not (change.what == "element" and change.name in DYNAMIC):
            with self._lock:
                self._edits.add(change)

    def ended(self, generation: int) -> None:
        """See `kernel.notices.Journal.ended`."""
        if self._until and generation != self._until + 1:
            self.lost()  # or the number began anew: it has 32 bits
        with self._lock:
            self._until = generation

    @property
    def is_full(self) -> bool:
        """See `kernel.notices.Journal.is_full`."""
        return self._edits.is_beyond

    @property
    def has_edits(self) -> bool:
        """Return whether something was noted that nobody has taken yet."""
        return bool(self._edits)

    def take(self) -> Taken:
        """Return what was noted, and forget it."""
        with self._lock:
            taken = Taken(self._edits, self._hearing, self._until)
            self._edits = Edits()
            return taken

    def is_quiet(self, generation: int) -> bool:
        """Return whether all transactions up to that one were heard, and nothing was noted."""
        with self._lock:
            return self._until >= generation and not self._edits
