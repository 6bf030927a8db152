"""What there is to say of single Service ports: why they are left out, or how they are served otherwise.

Most syncs change none of it, so it is passed on as one value that stays the same object until something differs:
whoever hands it further can tell by identity that there is nothing new, and a sync costs nothing for the ports of
which something was said before.
"""

from collections.abc import Iterable, Mapping
from operator import is_not

from kubeproxy.dataplane.base import Change
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName


class Remarks:
    """A text for each of some ports."""

    def __init__(self) -> None:
        self._texts: dict[ServicePortName, str] = {}
        self._told: Mapping[ServicePortName, str] | None = None

    def say(self, name: ServicePortName, text: str) -> None:
        """Say something of a port, in place of what was said before; "" is nothing."""
        if self._texts.get(name, "") == text:
            return
        self._told = None
        if text:
            self._texts[name] = text
        else:
            del self._texts[name]

    def told(self) -> Mapping[ServicePortName, str]:
        """Return all that was said; the same object until something differs. Not to be changed."""
        if self._told is None:
            self._told = dict(self._texts)
        return self._told


class Joined:
    """Remarks from several sources as one; made anew when one of them is another object than before."""

    def __init__(self) -> None:
        self._sources: tuple[Mapping[ServicePortName, str], ...] = ()
        self._joined: Mapping[ServicePortName, str] = {}

    def of(self, *sources: Mapping[ServicePortName, str]) -> Mapping[ServicePortName, str]:
        """Return what all sources say; of a port that several speak of, what the last says."""
        before, self._sources = self._sources, sources
        if len(before) != len(sources) or any(map(is_not, before, sources)):
            self._joined = {name: text for each in sources for name, text in each.items()}
        return self._joined


class Quarantine:
    """States that nothing in the kernel stands for, each with a complaint.

    The ledger has them as if they were written, so they are left alone until they change.
    """

    def __init__(self) -> None:
        self.states: dict[ServicePortName, ServiceState] = {}
        self.endpoints = 0
        """How many endpoints they have together."""
        self._why = Remarks()

    def __len__(self) -> int:
        """Return how many ports there are."""
        return len(self.states)

    def hold(self, name: ServicePortName, state: ServiceState, why: str) -> None:
        """Leave a port out for as long as this is its state."""
        self.release(name)
        self.states[name] = state
        self.endpoints += state.reach
        self._why.say(name, why)

    def holds(self, name: ServicePortName, state: ServiceState) -> bool:
        """Return whether nothing may stand for this state of a port."""
        return self.states.get(name) == state

    def release(self, name: ServicePortName) -> bool:
        """Let go of a port; return whether it was there."""
        state = self.states.pop(name, None)
        if state is None:
            return False
        self.endpoints -= state.reach
        self._why.say(name, "")
        return True

    def settle(self, changes: Iterable[Change]) -> list[ServicePortName]:
        """Let go of ports that have another state now; return which."""
        if not self.states:
            return []
        return [
            each.name
            for each in changes
            if self.states.get(each.name, each.after) != each.after and self.release(each.name)
        ]

    def keep(self, wanted: Mapping[ServicePortName, ServiceState]) -> list[ServicePortName]:
        """Let go of ports whose state is not the one that is wanted of them; return which."""
        gone = [name for name, state in self.states.items() if wanted.get(name) != state]
        for name in gone:
            self.release(name)
        return gone

    def clear(self) -> None:
        """Let go of all, so that they are tried again."""
        self.keep({})

    def told(self) -> Mapping[ServicePortName, str]:
        """Return why each is left out, see `Remarks.told`."""
        return self._why.told()
