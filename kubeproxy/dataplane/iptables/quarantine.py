"""Service ports that stand in no table, and when they are tried again. Pure.

Each is when its Service changes. One for whose clients there was no room is in every full plan; one whose line the
kernel refused in each that mends no failure (every hour), since somebody may have loaded a module. One that was
found by halving is not: to find it again would leave others unserved for a moment.
"""

from enum import Enum, auto

from kubeproxy.dataplane import remarks
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName


class Again(Enum):
    """What tries a port again whose Service does not change."""

    NEVER = auto()
    UNHURRIED = auto()
    """Full plans that mend no failure."""
    ALWAYS = auto()
    """Full plans."""


class Quarantine(remarks.Quarantine):
    """The ports of one family."""

    def __init__(self) -> None:
        super().__init__()
        self._again: dict[ServicePortName, Again] = {}

    def hold(self, name: ServicePortName, state: ServiceState, why: str, again: Again = Again.NEVER) -> None:
        """Leave a port out until its state is another, or until it is tried again."""
        super().hold(name, state, why)
        self._again[name] = again

    def release(self, name: ServicePortName) -> bool:
        """See `remarks.Quarantine.release`."""
        self._again.pop(name, None)
        return super().release(name)

    def begin_full(self, *, unhurried: bool) -> None:
        """Let go of those that a full plan tries again."""
        tried = (Again.ALWAYS, Again.UNHURRIED) if unhurried else (Again.ALWAYS,)
        for name in [name for name, again in self._again.items() if again in tried]:
            self.release(name)

    def has_crowded(self) -> bool:
        """Return whether the next full plan tries any again, whatever it is for."""
        return Again.ALWAYS in self._again.values()
