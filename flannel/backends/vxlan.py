"""VXLAN: the kernel encapsulates; we keep one route, one neighbour and one forwarding entry a lease.

The device keeps its MAC for as long as anything remembers it: the device itself, else this node's lease in
the store, else ourselves while we run. Every other node has that MAC in its neighbour table, so a new one
costs traffic until all of them have noticed. flannel compares neither MAC nor MTU of a device it finds, and
after a device was deleted chooses a new MAC that its lease does not say.
"""

import secrets
from typing import Annotated

import msgspec

from flannel.backends.base import Context, Mtu, Port, inner_mtu, options
from flannel.lease import Lease, LeaseAttrs, LeaseError, decode_vtep, encode_vtep
from flannel.overlay import Scope, vxlan_wiring
from kubeproxy.kernel.links import Link, Vxlan, Wiring

DEVICE_STEM = "flannel"
DEFAULT_VNI = 1
KERNEL_PORT = 8472
"""What Linux uses when no port is given."""

OVERHEAD_BYTES = 50
"""Outer Ethernet, IPv4, UDP and VXLAN headers."""


Vni = Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]


class VxlanOptions(msgspec.Struct, frozen=True, rename="lower"):
    """The Backend object's keys (folded to lower case) for this type."""

    vni: Vni = DEFAULT_VNI
    port: Port = 0
    gbp: bool = False
    learning: bool = False
    directrouting: bool = False
    mtu: Mtu = 0


class VxlanBackend:
    """See `flannel.backends.base.Backend`."""

    lease_type = "vxlan"

    def __init__(self, context: Context) -> None:
        chosen = options(context.netconf.backend, VxlanOptions)
        self.mtu = inner_mtu(chosen.mtu, context.underlay, OVERHEAD_BYTES)
        self._context = context
        self._options = chosen
        self._device = Link(
            name=f"{DEVICE_STEM}.{chosen.vni}",
            mtu=self.mtu,
            vxlan=Vxlan(
                vni=chosen.vni,
                port=chosen.port or KERNEL_PORT,
                underlay=context.underlay.link,
                local=str(context.underlay.address),
                learning=chosen.learning,
                gbp=chosen.gbp,
            ),
        )
        self.scope = Scope(
            network=context.network,
            devices=frozenset({self._device.name}),
            underlay=context.underlay.link,
        )

    def attributes(self, standing: LeaseAttrs | None) -> LeaseAttrs:
        """See `Backend.attributes`."""
        mac = self._device_mac() or _lease_mac(standing) or random_mac()
        self._device = msgspec.structs.replace(self._device, mac=mac)
        return LeaseAttrs(
            public_ip=self._context.underlay.public_ip,
            backend_type=self.lease_type,
            backend_data=encode_vtep(self._options.vni, mac),
        )

    def wiring(self, own: Lease, peers: tuple[Lease, ...]) -> Wiring:
        """See `Backend.wiring`."""
        direct = frozenset(lease.attrs.public_ip for lease in peers if self._is_direct(lease))
        return vxlan_wiring(own, peers, self._device, self._context.underlay, direct)

    def announce(self, own: Lease, peers: tuple[Lease, ...]) -> None:
        """The kernel does the forwarding: nothing to tell."""

    async def run(self) -> None:
        """The kernel does the forwarding: nothing to do."""

    def _device_mac(self) -> str:
        found = self._context.interfaces.read([self._device.name]).links
        return found[0].mac if found and found[0].vxlan is not None else ""

    def _is_direct(self, lease: Lease) -> bool:
        if not self._options.directrouting:
            return False
        route = self._context.interfaces.route_to(str(lease.attrs.public_ip))
        return route is not None and not route.gateway and route.link == self._context.underlay.link


def _lease_mac(standing: LeaseAttrs | None) -> str:
    if standing is None or standing.backend_type != VxlanBackend.lease_type:
        return ""
    try:
        return decode_vtep(standing.backend_data).mac
    except LeaseError:
        return ""


def random_mac() -> str:
    """Return a random locally administered unicast MAC address."""
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")
