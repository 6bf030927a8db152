"""How much of the kernel's memory one Service may have, so that no tenant's costs all others theirs. Pure."""

from collections.abc import Collection, Iterator

from kubeproxy.dataplane.budget import Budget
from kubeproxy.dataplane.remarks import Quarantine
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import Key, ServicePortName

MOST_ELEMENTS = 200_000
"""Of one Service's endpoints: each of its places has them all, and with affinity twice. One takes the kernel some
100 bytes and 3 µs."""


class Limits:
    """Which ports are too large beside the others of their Service."""

    def __init__(self) -> None:
        self.too_large = Quarantine()
        self._elements = Budget(MOST_ELEMENTS, lambda name: name.key)

    def forget(self, name: ServicePortName) -> None:
        """Note that nothing stands for a port any more."""
        self._elements.give_back(name)
        self.too_large.release(name)

    def fits(self, state: ServiceState) -> bool:
        """Let a port for which nothing stands have what it needs; return whether there is as much left."""
        count = _elements(state)
        if self._elements.take(state.name, count):
            self.too_large.release(state.name)
            return True
        self.too_large.hold(
            state.name,
            state,
            f"{count:,} elements (its endpoints at each of its addresses) are more than there is room for "
            f"({MOST_ELEMENTS:,} a Service)",
        )
        return False

    def waiting(self, keys: Collection[Key]) -> Iterator[ServiceState]:
        """Yield the ports of some Services that are too large, as far as it was known."""
        if self.too_large:
            yield from [state for name, state in self.too_large.states.items() if name.key in keys]


def _elements(state: ServiceState) -> int:
    outside = len(state.external_ips) + len(state.load_balancer_ips) + bool(state.node_port)
    from_outside = len(state.cluster) + (len(state.local) if state.external_local else 0)
    inside = len(state.local) if state.internal_local else len(state.cluster)
    return (inside + outside * from_outside) * (2 if state.affinity_seconds else 1)
