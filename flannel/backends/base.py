"""The seam between the leases and a way to carry packets.

A backend says what it publishes in the lease (`attributes`), what the kernel should hold for a set of leases
(`wiring`; the reconciler writes it), and may have work of its own (`run`, `announce`): a userspace forwarder.
Its shape follows flannel's Backend.RegisterNetwork → Network{Lease, MTU, Run}, with effects as data.
"""

from ipaddress import IPv4Network
from typing import Annotated, Protocol, TypeVar

import msgspec

from flannel.lease import Lease, LeaseAttrs
from flannel.netconf import BackendConf, NetConf, NetConfError
from flannel.overlay import Scope, Underlay
from kubeproxy.kernel.interfaces import Interfaces
from kubeproxy.kernel.links import Wiring

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Mtu = Annotated[int, msgspec.Meta(ge=0, le=65535)]

SMALLEST_MTU = 576
"""What every IPv4 host must take (RFC 791); an overlay below it is a mistake in the configuration."""


class BackendError(Exception):
    """A backend that cannot work on this machine; the text says what to do."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What every backend is made from."""

    netconf: NetConf
    underlay: Underlay
    interfaces: Interfaces

    @property
    def network(self) -> IPv4Network:
        """The pod network."""
        return self.netconf.network


class Backend(Protocol):
    """A way to carry packets. ``mtu`` is what pods may send; ``lease_type`` the leases' BackendType."""

    lease_type: str
    mtu: int
    scope: Scope

    def attributes(self, standing: LeaseAttrs | None) -> LeaseAttrs:
        """Return what to publish, given what this node published before. Blocking. Raises BackendError."""
        ...

    def wiring(self, own: Lease, peers: tuple[Lease, ...]) -> Wiring:
        """Return what the kernel should hold. Blocking."""
        ...

    def announce(self, own: Lease, peers: tuple[Lease, ...]) -> None:
        """Take note of the usable leases; called on the event loop whenever they change."""
        ...

    async def run(self) -> None:
        """Do the backend's own work until cancelled."""
        ...


OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


def options(conf: BackendConf, kind: type[OptionsT]) -> OptionsT:
    """Read a backend's options; unknown ones are ignored, as flannel does. Raises `NetConfError`."""
    try:
        return msgspec.convert(dict(conf.options), kind)
    except msgspec.ValidationError as error:
        raise NetConfError(f"Backend ({conf.type}): {error}") from None


def inner_mtu(configured: int, underlay: Underlay, overhead: int) -> int:
    """Return what is left of the underlay's MTU inside the encapsulation. Raises `NetConfError`."""
    mtu = (configured or underlay.mtu) - overhead
    if mtu < SMALLEST_MTU:
        raise NetConfError(f"the MTU inside the overlay would be {mtu}; at least {SMALLEST_MTU} is needed")
    return mtu
