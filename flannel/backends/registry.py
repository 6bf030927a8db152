"""Every backend by the Type that net-conf.json gives it."""

from collections.abc import Callable

from flannel.backends.alloc import AllocBackend
from flannel.backends.base import Backend, Context
from flannel.backends.hostgw import HostGatewayBackend
from flannel.backends.udp import UdpBackend
from flannel.backends.vxlan import VxlanBackend
from flannel.netconf import NetConfError

BACKENDS: dict[str, Callable[[Context], Backend]] = {
    "alloc": AllocBackend,
    "host-gw": HostGatewayBackend,
    "udp": UdpBackend,
    "vxlan": VxlanBackend,
}

NOT_BUILT = frozenset({"ipip", "wireguard", "extension", "ipsec", "tencent-vpc"})
"""Types that flannel has and this does not have yet."""


def make_backend(context: Context) -> Backend:
    """Make the backend that the configuration names. Raises NetConfError or BackendError."""
    kind = context.netconf.backend.type
    built = ", ".join(sorted(BACKENDS))
    if kind in NOT_BUILT:
        raise NetConfError(f"Backend.Type: {kind!r} is not built yet; there are {built}")
    if kind not in BACKENDS:
        raise NetConfError(f"Backend.Type: {kind[:32]!r} is unknown; there are {built}")
    return BACKENDS[kind](context)
