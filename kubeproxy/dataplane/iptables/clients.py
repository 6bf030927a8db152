"""The ipsets in which endpoints remember their clients (ClientIP affinity): one an endpoint, of its chain's name.

Rules fill them: an endpoint's chain enters the client for as long as the affinity lasts, and the Service's chain
asks each endpoint's set before it chooses. A set is there before a rule names it, and goes when none does.
Upstream uses xt_recent, whose lists hold 100 clients each.

Cost: one message a set made or destroyed; nothing for Services without affinity.
"""

from collections.abc import Iterable

from kubeproxy.dataplane.base import Change
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.sets import Sets
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.model.desired import ServiceState


class ClientSets:
    """Which of these sets there are, and which are needed."""

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self._present: set[str] = set()
        self._needed: set[str] = set()

    def adopt(self) -> None:
        """Learn which sets there are; forget every need. A set that is needed again keeps its clients."""
        self._present = self._sets.named(names.ENDPOINT_PREFIX)
        self._needed.clear()

    def change(self, change: Change) -> None:
        """Make the sets that a change's rules will name."""
        if change.before is not None and change.before.affinity_seconds:
            self._needed.difference_update(_sets_of(change.before))
        if change.after is None or not change.after.affinity_seconds:
            return
        for name in _sets_of(change.after):
            self._needed.add(name)
            if name not in self._present:
                self._sets.create(name, SetType.CLIENTS)
                self._present.add(name)

    def sweep(self) -> None:
        """Destroy the sets that no rule names any more."""
        for name in self._present - self._needed:
            if self._sets.destroy(name):
                self._present.discard(name)


def _sets_of(state: ServiceState) -> Iterable[str]:
    return [names.endpoint_chain(state.name, target.text) for target in state.reachable]
