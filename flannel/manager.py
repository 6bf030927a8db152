"""The seam between the daemon and where subnets come from: the store (`subnets`) or Node objects (`kube_subnets`).

Its shape follows flannel's subnet.Manager. Every wait is announced in ``waiting_for`` and logged once; only what
makes going on pointless is raised.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from flannel.lease import Lease, LeaseAttrs
from flannel.netconf import NetConf


class LeaseLost(Exception):
    """This node's pods have addresses that belong elsewhere now; the text says whose they are."""


class SubnetManager(Protocol):
    """One node's view of all leases. Lives on one event loop."""

    own: Lease | None
    """The lease of this node, once acquired; follows what is published of it."""
    waiting_for: str
    """Why `netconf` or `acquire` has not returned yet; "" when it is not known to wait."""

    @property
    def synced(self) -> bool:
        """Whether all leases have been seen and changes are being watched."""
        ...

    async def public_ip(self) -> IPv4Address | None:
        """Return the address that an administrator gave this node, which overrides the flag -public-ip."""
        ...

    async def netconf(self) -> NetConf:
        """Return the network configuration, waiting until there is a valid one."""
        ...

    async def standing_lease(self, public_ip: IPv4Address) -> Lease | None:
        """Return the lease that this node holds from before, if there is one."""
        ...

    async def acquire(self, netconf: NetConf, attrs: LeaseAttrs, previous: IPv4Network | None = None) -> Lease:
        """Hold a lease of this node with these attributes, waiting as long as it takes.

        Raises `OutOfSubnets` or `NetConfError`.
        """
        ...

    async def renew(self) -> None:
        """Keep the own lease in force until cancelled. Raises `LeaseLost`."""
        ...

    async def follow(self, on_change: Callable[[tuple[Lease, ...]], None]) -> None:
        """Call back with the leases of all other nodes, at first and after every change, until cancelled.

        Raises `LeaseLost`.
        """
        ...

    async def mark_up(self) -> None:
        """Tell whoever schedules pods that this node can network them."""
        ...
