"""ipsets whose entries are the union over all Service ports: endpoints that may be their own clients, cluster IPs.

Several ports may have the same entry, so entries are counted. An entry is in the kernel before the rules that
rely on it, and leaves after they are gone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from kubeproxy.dataplane.base import Change
from kubeproxy.kernel.ipset_messages import Entry, Member, SetType
from kubeproxy.kernel.sets import SizedSets
from kubeproxy.model.desired import ServiceState


def hairpin_entries(states: Iterable[ServiceState]) -> list[Entry]:
    """Return the endpoints of ports that may be clients of their own Service."""
    return [(each.address, state.name.protocol, each.port) for state in states for each in state.nearby]


def cluster_ips(states: Iterable[ServiceState]) -> list[str]:
    """Return the cluster IPs of ports that own theirs."""
    return [state.cluster_ip for state in states if state.cluster_ip]


class SharedSet:
    """What should be in one set, and what is. Changes are taken by the hundred: most have nothing for it."""

    def __init__(
        self,
        sets: SizedSets,
        name: str,
        kind: SetType,
        entries: Callable[[Iterable[ServiceState]], Sequence[Member]],
    ) -> None:
        self._sets = sets
        self._name = name
        self._kind = kind
        self._entries = entries
        self._uses: Counter[Member] = Counter()
        """How many ports need each entry that is in the kernel."""

    def adopt(self) -> None:
        """Make sure of the set and learn what it holds; forget every use. Raises OSError, KernelError."""
        if not self._sets.create(self._name, self._kind):
            raise OSError(
                f"no room for ipset {self._name}: this node has all that the kernel allows; see ipset list"
            )
        self._uses = Counter(dict.fromkeys(self._sets.members(self._name), 0))

    def take(self, changes: Sequence[Change]) -> None:
        """Count what changes add and give up; what is new is in the kernel afterwards."""
        come = self._entries([each.after for each in changes if each.after is not None])
        gone = self._entries([each.before for each in changes if each.before is not None])
        fresh = [entry for entry in dict.fromkeys(come) if entry not in self._uses]
        if fresh:
            self._sets.add(self._name, fresh)
        self._uses.update(come)
        self._uses.subtract(gone)

    def drift(self) -> str:
        """Return what somebody did to the set, as far as its size tells, "" when nothing shows."""
        size = self._sets.size(self._name)
        if size is None:
            return f"set {self._name} was destroyed by somebody"
        wanted = len(self._uses)
        return "" if size == wanted else f"set {self._name} has {size} entries instead of {wanted}"

    def sweep(self, changes: Sequence[Change] | None) -> None:
        """Take out entries that no port uses any more: those of ``changes``, or (None) all."""
        uses = self._uses
        if changes is None:
            stale = [entry for entry, count in uses.items() if count <= 0]
        else:
            gone = self._entries([each.before for each in changes if each.before is not None])
            stale = [entry for entry in dict.fromkeys(gone) if uses[entry] <= 0]
        if stale:
            self._sets.delete(self._name, stale)
        for entry in stale:
            del uses[entry]
