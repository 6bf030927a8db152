"""The ipsets in which endpoints remember their clients (ClientIP affinity): one an endpoint, of its chain's name.

Rules fill them: an endpoint's chain enters the client for as long as the affinity lasts, and the Service's chain
asks each endpoint's set before it chooses. A set is there before a rule names it, and goes when none does.
Upstream uses xt_recent, whose lists hold 100 clients each.

The sets of a network namespace are everybody's: the kernel allows 65,535, and making one takes the longer the
more there are. So that no crowd of sticky Services stops the syncs of all others, there are `MOST` of these; a
port that comes when there is no room is left out, and told of.

Cost: one message a set made or destroyed (the 10,000th takes 0.7 ms); nothing for Services without affinity.
"""

from kubeproxy.dataplane.base import Change
from kubeproxy.dataplane.iptables import names
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.sets import Sets
from kubeproxy.model.desired import ServiceState

MOST = 10_000
"""Of one family: most of the kernel's sets are left to others. To make them all takes 5 s, and the rules that name
them, all at once, 20 s with nft (5 with legacy): the time grows with their number squared."""


class ClientSets:
    """Which of these sets there are, and which are needed."""

    def __init__(self, sets: Sets, most: int = MOST) -> None:
        self._sets = sets
        self._most = most
        self._present: set[str] = set()
        self._needed: set[str] = set()
        self._kept: set[str] = set()
        """Those that were there before a full plan and that it has not come to yet: their owners go first."""
        self._doubtful: set[str] = set()
        """Those that perhaps nobody needs; the next sweep looks at them."""

    def adopt(self) -> None:
        """Learn which sets there are; forget every need. A set that is needed again keeps its clients."""
        self._present = self._sets.named(names.ENDPOINT_PREFIX)
        self._needed.clear()
        self._kept = set(self._present)
        self._doubtful = set(self._present)

    def make(self, change: Change) -> str:
        """Make the sets that a change's new rules will name; return why not, "" when all are there.

        Asked again before the change is in, the answer is the same. Raises KernelError.
        """
        if change.after is None or not change.after.affinity_seconds:
            return ""
        wanted = _sets_of(change.after)
        missing = wanted - self._needed
        own = _sets_of(change.before) | wanted
        others = sum(len(each) - len(each & own) for each in (self._needed, self._kept))
        if missing and others + len(wanted) > self._most:
            return _no_room(f"others have {others:,} of this node's {self._most:,}", len(wanted))
        for name in missing - self._present:
            if not self._sets.create(name, SetType.CLIENTS):
                return _no_room("the kernel allows this node no more", len(wanted))
            self._present.add(name)
            self._doubtful.add(name)
        self._needed |= missing
        self._kept -= wanted
        return ""

    def change(self, change: Change) -> None:
        """Give up the sets that only the old rules of a change name."""
        if change.before is not None and (old := _sets_of(change.before)):
            gone = old - _sets_of(change.after)
            self._needed -= gone
            self._doubtful |= gone

    def sweep(self) -> bool:
        """Destroy the sets that no rule names any more; return whether room was kept for some in vain."""
        in_vain = bool(self._kept)
        self._kept.clear()
        idle = self._doubtful - self._needed
        self._doubtful = {name for name in idle & self._present if not self._sets.destroy(name)}
        self._present -= idle - self._doubtful
        return in_vain


def _no_room(what: str, wanted: int) -> str:
    return (
        f"no room for the {wanted:,} ipsets in which its endpoints would remember their clients ({what}); use "
        "fewer endpoints with sessionAffinity: ClientIP. Tried again when it changes, and every hour"
    )


def _sets_of(state: ServiceState | None) -> set[str]:
    if state is None or not state.affinity_seconds:
        return set()
    return {names.endpoint_chain(state.name, target.text) for target in state.reachable}
