"""What a control loop has written but its informer has not shown yet.

A loop that plans from its informer's copy right after a write would plan the same write again: in vain, because
the copy's resourceVersion is old, or, for an object with a generated name, making a second one. So what it wrote
is remembered here, under its key, until the informer has spoken of that key, or for a while: an object that was
made and removed while the watch was away is never spoken of.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from kubeproxy.controllers.objects import Key

T = TypeVar("T")

KEEP_SECONDS = 30.0


class Unseen(Generic[T]):
    """Objects that this process wrote, on top of an informer's copy; ``now`` tells monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._made: dict[Key, tuple[float, T]] = {}

    def made(self, key: Key, value: T) -> None:
        """Remember an object that the server has accepted."""
        self._made.pop(key, None)
        self._made[key] = (self._now() + KEEP_SECONDS, value)

    def seen(self, keys: Iterable[Key]) -> None:
        """Forget what the informer now speaks of, or what is known to be gone."""
        for key in keys:
            self._made.pop(key, None)

    def get(self, key: Key) -> T | None:
        """Return what was written under a key and is not seen yet."""
        until, value = self._made.get(key, (0.0, None))
        return value if self._now() < until else None

    def over(self, cache: Mapping[Key, T]) -> dict[Key, T]:
        """Return the objects that the informer does not hold yet."""
        now = self._now()
        while self._made and next(iter(self._made.values()))[0] <= now:  # the oldest stands first
            del self._made[next(iter(self._made))]
        return {key: value for key, (_, value) in self._made.items() if key not in cache}
