"""Which chains of iptables-nft's tables others have changed, as the kernel told it, until they are put right.

The event loop notes what it hears, the worker thread takes it.
"""

import threading
from collections.abc import Callable, Mapping

from kubeproxy.dataplane.iptables import names
from kubeproxy.kernel.notice_messages import TableNotice

MOST = 64
"""Chains. Who changes more has mostly flushed a table, which takes a full sync, and that need not wait until all
of it was read: the first reading has so many."""

Chains = Mapping[str, frozenset[str]]
"""By table; some are built in, which have lost rules that lead to ours."""


class Told:
    """See `kernel.notices.Journal`. Safe from any thread.

    ``concerns`` says of a change what it did to ours, "" when that is nothing.
    """

    def __init__(self, concerns: Callable[[TableNotice], str]) -> None:
        self._concerns = concerns
        self._lock = threading.Lock()
        self._chains: set[tuple[str, str]] = set()
        self._is_beyond = False
        """Whether more was changed than single chains, or nobody knows which."""
        self.times_opened = 0
        """How often somebody began to listen; what was done before nobody has heard of."""

    def opened(self) -> None:
        """See `Journal.opened`."""
        self.times_opened += 1

    def closed(self) -> None:
        """See `Journal.closed`; what was noted stays to be put right."""

    def lost(self) -> None:
        """See `Journal.lost`."""
        with self._lock:
            self._is_beyond = True
            self._chains.clear()

    def note(self, change: TableNotice) -> None:
        """See `Journal.note`."""
        if self._is_beyond or not self._concerns(change):
            return
        if change.what == "table" or change.name == names.CANARY or len(self._chains) == MOST:
            self.lost()
            return
        with self._lock:
            self._chains.add((change.table, change.name))

    def ended(self, generation: int) -> bool:
        """See `Journal.ended`; whether one is missing is not asked: what was lost is told otherwise."""
        return True

    @property
    def is_full(self) -> bool:
        """See `Journal.is_full`."""
        return self._is_beyond

    @property
    def is_pending(self) -> bool:
        """Return whether something was noted that nobody has taken yet."""
        return self._is_beyond or bool(self._chains)

    def take(self) -> Chains | None:
        """Return what was noted, and forget it; None when not all of it is known."""
        with self._lock:
            chains, is_beyond = self._chains, self._is_beyond
            self._chains, self._is_beyond = set(), False
        if is_beyond:
            return None
        tables = {table for table, _ in chains}
        return {table: frozenset(name for of, name in chains if of == table) for table in tables}
