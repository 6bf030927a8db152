"""What the kernel has told of others' changes of the table, until they are undone.

The event loop notes what it hears, the worker thread takes it.
"""

import threading
from typing import NamedTuple

from kubeproxy.dataplane.nftables.edits import Edits
from kubeproxy.dataplane.nftables.sets import DYNAMIC
from kubeproxy.kernel.nf_tables.base import NAME
from kubeproxy.kernel.notice_messages import TableNotice


class Heard(NamedTuple):
    """The generations of the first and the last transaction that were told since something was missed.

    Between them none is missing. Both 0 when none was told.
    """

    first: int = 0
    last: int = 0

    def goes_on_from(self, generation: int) -> bool:
        """Return whether no transaction is missing after that one, as far as was heard."""
        return self.first <= generation + 1


class Taken(NamedTuple):
    """What `Journal.take` returns."""

    edits: Edits
    hearing: int
    """Since when nothing was missed (see `Journal.hearing`)."""
    heard: Heard


class Journal:
    """See `kernel.notices.Journal`. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._misses = 0
        self._is_open = False
        self._heard = Heard()
        self._edits = Edits()

    @property
    def hearing(self) -> int:
        """Since when nothing was missed: another number each time, 0 while nobody listens."""
        return self._misses if self._is_open else 0

    def opened(self) -> None:
        """See `kernel.notices.Journal.opened`."""
        self.lost()
        self._is_open = True

    def closed(self) -> None:
        """See `kernel.notices.Journal.closed`; nobody will be asked to undo what was noted until then."""
        self._is_open = False
        self.lost()

    def lost(self) -> None:
        """See `kernel.notices.Journal.lost`."""
        with self._lock:
            self._misses += 1
            self._heard = Heard()
            self._edits = Edits()

    def note(self, change: TableNotice) -> None:
        """See `kernel.notices.Journal.note`; what packets fill is nobody's business."""
        if change.table == NAME and not (change.what == "element" and change.name in DYNAMIC):
            with self._lock:
                self._edits.add(change)

    def ended(self, generation: int) -> bool:
        """See `kernel.notices.Journal.ended`."""
        is_next = self._heard.last in (0, generation - 1)
        if not is_next:
            self.lost()  # or the number began anew: it has 32 bits
        with self._lock:
            self._heard = Heard(self._heard.first or generation, generation)
        return is_next

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
            taken = Taken(self._edits, self.hearing, self._heard)
            self._edits = Edits()
            return taken

    def is_quiet(self, after: int, until: int) -> bool:
        """Return whether all transactions after one, and until another, were heard, and nothing was noted."""
        with self._lock:
            return self._heard.goes_on_from(after) and max(self._heard.last, after) >= until and not self._edits
