"""What others did to the rules while nobody listened to the kernel: all is counted, once after each time. Pure."""

from collections.abc import Iterable
from typing import Protocol


class Heard(Protocol):
    """Whoever is told of others' changes."""

    times_opened: int
    """How often somebody began to listen."""


class Missed:
    """For the worker thread, while another one listens."""

    def __init__(self, heard: Heard | None) -> None:
        """See the class; without ``heard`` nobody ever listens, and nothing is counted."""
        self._heard = heard
        self._times_caught_up = 0
        """How often somebody had begun to listen when all was last counted."""

    def look(self, counts: Iterable[str]) -> str:
        """Return the first of ``counts`` that says what is amiss; they are made only if something may be."""
        times = self._heard.times_opened if self._heard else 0
        if times == self._times_caught_up:
            return ""
        why = next(filter(None, counts), "")
        self._times_caught_up = times
        return why
