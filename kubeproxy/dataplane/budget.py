"""What there is only so much of, and which Service ports have how much of it. Pure."""

from collections import Counter
from collections.abc import Callable, Hashable

from kubeproxy.model.ident import ServicePortName


class Budget:
    """An amount that some ports share; whoever gives something back may come too late to have it again."""

    def __init__(self, most: int, shared_by: Callable[[ServicePortName], Hashable] = lambda name: None) -> None:
        """See the class; ``shared_by``: which ports share one amount, by a value that they have in common."""
        self._most = most
        self._shared_by = shared_by
        self._of: dict[ServicePortName, int] = {}
        self._spent: Counter[Hashable] = Counter()

    def give_back(self, name: ServicePortName) -> None:
        """Take back what a port has, if it has anything."""
        amount = self._of.pop(name, 0)
        if amount:
            common = self._shared_by(name)
            self._spent[common] -= amount
            if not self._spent[common]:
                del self._spent[common]  # Services come and go for years

    def take(self, name: ServicePortName, amount: int) -> bool:
        """Let a port that has nothing have so much; return whether there was as much left."""
        common = self._shared_by(name)
        if self._spent[common] + amount > self._most:
            return False
        if amount:
            self._of[name] = amount
            self._spent[common] += amount
        return True
