"""Which virtual servers others have changed, as far as one short question about all of IPv4's shows it.

The answer is compared with the last one that was right, which takes next to nothing. Only what differs there, and
what we have changed ourselves since, is compared with the books. So nothing that we do looks like drift, and what
others do beside it does, though changes of ours follow each other without a pause.

It shows how a virtual server was made and how many destinations it has. It does not show a destination that was
exchanged for another, nor one's weight.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

from kubeproxy.dataplane.ipvs.books import Books
from kubeproxy.dataplane.ipvs.kernel_state import KernelState
from kubeproxy.dataplane.ipvs.work import Work
from kubeproxy.kernel.ipvs_overview import Outline, Overview
from kubeproxy.kernel.ipvs_types import ServerKey

REST_AFTER_OVERVIEW = 500
"""While nothing else makes them worthwhile, overviews take one part in so many of the time."""
MEASURED = 4
"""Of so many the quickest tells what one takes: the others have waited, for a processor or for who writes IPVS."""
MOST_REST_SECONDS = 10.0
"""Though all of them have waited."""

Suspects = Mapping[ServerKey, Outline | None]
"""Virtual servers that are not as the books have them, as the kernel has them; None: it has no such."""


class Overviews:
    """One family's; of IPv6 the kernel tells nothing."""

    def __init__(self, state: KernelState, now: Callable[[], float] = time.monotonic) -> None:
        """See the class; ``now``: seconds that have passed."""
        self._state = state
        self._now = now
        self._due = -math.inf
        self._took: deque[float] = deque(maxlen=MEASURED)
        self._right: Overview | None = None
        """Everything as it was when it was right; None: nobody knows."""
        self._seen: Overview | None = None
        """The last one that was another."""
        self._written: set[ServerKey] = set()
        """What we have changed since everything was right."""

    @property
    def is_due(self) -> bool:
        """Whether it is time for another one."""
        return self._now() >= self._due

    def writing(self, work: Work) -> None:
        """Note what is about to be changed."""
        self._written.update(each.server.key for each in (*work.commands, *work.farewells))

    def written_anew(self) -> None:
        """Note that everything was corrected: all is to be compared once."""
        self._right = None
        self._written.clear()

    def suspects(self, books: Books) -> Suspects | None:
        """Ask; return what is not as the books have it, None when the kernel does not tell."""
        overview = self._ask()
        if overview is None:
            self.written_anew()
            return None
        if overview == self._right and not self._written:
            return {}
        self._seen = overview
        told = self._differing(overview, books)
        found: Suspects = {key: each for key, each in told.items() if not _is_right(books, key, each)}
        if not found:
            self.settle()
        return found

    def settle(self) -> None:
        """Take what was seen last as right: suspects were looked at, and are, or will be compared again."""
        self._right = self._seen
        self._written.clear()

    def _ask(self) -> Overview | None:
        begun = self._now()
        overview = self._state.overview()
        ended = self._now()
        self._took.append(ended - begun)
        self._due = ended + min(REST_AFTER_OVERVIEW * min(self._took), MOST_REST_SECONDS)
        return overview

    def _differing(self, overview: Overview, books: Books) -> Suspects:
        """Return what is told of those that may not be right."""
        keys: Collection[ServerKey]
        if self._right is None:
            told, keys = overview.outlines(), (*books.servers, *books.foreign)
        else:
            keys = overview.differing(self._right) | self._written
            told = overview.of(keys)
        return {key: told.get(key) for key in keys}


def _is_right(books: Books, key: ServerKey, told: Outline | None) -> bool:
    if key in books.foreign:
        return told is not None  # else ours can be there
    ours = books.servers.get(key)
    return ours is None or (told is not None and told.server == ours and told.destinations == books.count(key))
