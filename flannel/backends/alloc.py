"""alloc: a lease and subnet.env, and no packets carried: something else connects the nodes."""

from flannel.backends.base import Context
from flannel.lease import Lease, LeaseAttrs
from flannel.overlay import Scope
from kubeproxy.kernel.links import Wiring


class AllocBackend:
    """See `flannel.backends.base.Backend`."""

    lease_type = ""

    def __init__(self, context: Context) -> None:
        self.mtu = context.underlay.mtu
        self._public_ip = context.underlay.public_ip
        self.scope = Scope(network=context.network, devices=frozenset(), underlay=context.underlay.link)

    def attributes(self, standing: LeaseAttrs | None) -> LeaseAttrs:
        """See `Backend.attributes`."""
        return LeaseAttrs(public_ip=self._public_ip)

    def wiring(self, own: Lease, peers: tuple[Lease, ...]) -> Wiring:
        """See `Backend.wiring`."""
        return Wiring()

    def announce(self, own: Lease, peers: tuple[Lease, ...]) -> None:
        """Nothing is forwarded."""

    async def run(self) -> None:
        """Nothing is forwarded."""
