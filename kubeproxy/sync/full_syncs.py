"""While anything is written anew nobody listens to the kernel, neither here nor for the other IP family.

Both families hear nf_tables through one multicast group. For whoever is in it the kernel makes a message of each
rule or element, and holds all of them until the commit (see `kernel.notices`): a listener of the other family
would cost as much as one of our own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listening(Protocol):
    """What listens to the kernel (`watching.Watcher`)."""

    def suspend(self) -> None:
        """Stop listening."""
        ...

    def resume(self) -> None:
        """Listen again, and look for what was missed."""
        ...


class FullSyncs:
    """Those under way in one agent, of all families. Lives on the event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._listening: list[Listening] = []

    def silence(self, listening: Listening) -> None:
        """Note who is not to listen from the beginning of the first full sync to the end of the last."""
        self._listening.append(listening)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Be one of them."""
        self._count += 1
        if self._count == 1:
            for each in self._listening:
                each.suspend()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                for each in self._listening:
                    each.resume()
