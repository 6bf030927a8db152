"""Which packet mark stands for which Service port's short circuit. Pure.

A mark is this node's own affair, so any free number does; but an agent that restarts keeps the marks it finds in
the kernel, and no connection is led astray.
"""

from collections.abc import Callable, Iterable

from kubeproxy.dataplane.ipvs.names import MARKS, is_short_circuit, short_circuit_mark
from kubeproxy.model.ident import ServicePortName


class Marks:
    """Marks handed out, by Service port."""

    def __init__(self, masquerade_bit: int, is_occupied: Callable[[int], bool]) -> None:
        """``is_occupied``: whether a mark still stands for something that is not in these books."""
        self._bit = masquerade_bit
        self._is_occupied = is_occupied
        self._of: dict[ServicePortName, int] = {}
        self._taken: set[int] = set()
        self._next = 0

    def of(self, name: ServicePortName, found: Iterable[int] = ()) -> int:
        """Return a port's mark: the one it has, else the first of ``found`` that nobody has, else a new one.

        Raises OverflowError when there is none: four million ports have one.
        """
        mark = self._of.get(name)
        if mark is None:
            kept = (each for each in found if self._is_pure(each) and each not in self._taken)
            mark = self._of[name] = next(kept, None) or self._new()
            self._taken.add(mark)
        return mark

    def all(self) -> dict[ServicePortName, int]:
        """Return every port's mark."""
        return dict(self._of)

    def __contains__(self, name: ServicePortName) -> bool:
        """Return whether a port has a mark."""
        return name in self._of

    def release(self, name: ServicePortName) -> None:
        """Take back a port's mark, if it has one."""
        mark = self._of.pop(name, None)
        if mark is not None:
            self._taken.discard(mark)

    def _is_pure(self, mark: int) -> bool:
        return is_short_circuit(mark, self._bit) and not mark & 1 << self._bit

    def _new(self) -> int:
        for _ in range(MARKS):
            mark = short_circuit_mark(self._next, self._bit)
            self._next = (self._next + 1) % MARKS
            if mark not in self._taken and not self._is_occupied(mark):
                return mark
        raise OverflowError("no packet mark is left for another Service port under policy Local")
