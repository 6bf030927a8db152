"""host-gw: no encapsulation, one route a lease by way of its node. All nodes must share a network segment."""

from flannel.backends.base import BackendError, Context
from flannel.lease import Lease, LeaseAttrs
from flannel.overlay import Scope, host_gateway_wiring
from kubeproxy.kernel.links import Wiring


class HostGatewayBackend:
    """See `flannel.backends.base.Backend`."""

    lease_type = "host-gw"

    def __init__(self, context: Context) -> None:
        underlay = context.underlay
        if underlay.public_ip != underlay.address:
            raise BackendError(
                f"host-gw: the public address {underlay.public_ip} is not the address {underlay.address} of "
                f"{underlay.link}: there is probably a NAT between the nodes; use vxlan"
            )
        self.mtu = underlay.mtu
        self._underlay = underlay
        self.scope = Scope(network=context.network, devices=frozenset(), underlay=underlay.link)

    def attributes(self, standing: LeaseAttrs | None) -> LeaseAttrs:
        """See `Backend.attributes`."""
        return LeaseAttrs(public_ip=self._underlay.public_ip, backend_type=self.lease_type)

    def wiring(self, own: Lease, peers: tuple[Lease, ...]) -> Wiring:
        """See `Backend.wiring`."""
        return host_gateway_wiring(peers, self._underlay)

    def announce(self, own: Lease, peers: tuple[Lease, ...]) -> None:
        """The kernel does the forwarding: nothing to tell."""

    async def run(self) -> None:
        """The kernel does the forwarding: nothing to do."""
