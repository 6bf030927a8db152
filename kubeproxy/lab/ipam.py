"""Which pod has which address of the node's subnet, as the host-local CNI plugin decides it.

The choice is pure: round robin from the address given last, so that one just freed is not given again at once
(somebody may still send to it). The record is one JSON file in the kubelet's state directory, written whole and
renamed before an address is used: a kubelet that is killed gives no address twice.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec


class Exhausted(Exception):
    """The subnet has no free address; one comes free when a pod ends."""


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses by owner, and the last one that was given."""

    last: str = ""
    reserved: dict[str, str] = {}


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part of the overlay, as flanneld's subnet.env states it."""

    network: IPv4Network
    gateway: IPv4Address
    mtu: int

    @property
    def cidr(self) -> str:
        """The network's text."""
        return str(self.network)


def parse_subnet_env(text: str) -> Subnet:
    """Read FLANNEL_SUBNET (the gateway, with the subnet's length) and FLANNEL_MTU. Raises ValueError."""
    values = dict(line.split("=", 1) for line in text.split() if "=" in line)
    if "FLANNEL_SUBNET" not in values:
        raise ValueError("subnet.env: FLANNEL_SUBNET is missing")
    gateway, _, length = values["FLANNEL_SUBNET"].partition("/")
    network = IPv4Network(f"{gateway}/{length}", strict=False)
    mtu = int(values.get("FLANNEL_MTU", "1450"))
    if not 576 <= mtu <= 65535:
        raise ValueError(f"subnet.env: FLANNEL_MTU {mtu} is out of range")
    return Subnet(network=network, gateway=IPv4Address(gateway), mtu=mtu)


def next_free(subnet: Subnet, last: str, taken: Mapping[str, str]) -> IPv4Address:
    """Return the first free address after ``last``. Raises Exhausted."""
    first, size = int(subnet.network.network_address), subnet.network.num_addresses
    used = {int(IPv4Address(address)) for address in taken.values()} | {int(subnet.gateway)}
    # The network and broadcast addresses are nobody's.
    usable = range(1, size - 1)
    start = int(IPv4Address(last)) - first if last and IPv4Address(last) in subnet.network else 0
    for step in range(1, size + 1):
        offset = (start + step) % size
        if offset in usable and first + offset not in used:
            return IPv4Address(first + offset)
    raise Exhausted(f"no free address in {subnet.cidr}: {len(taken)} pods hold one")


class AddressPool:
    """The node's addresses, kept in a file. Owners are named by the pod's uid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._leases = self._read()

    def _read(self) -> Leases:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Leases)
        except FileNotFoundError:
            return Leases()

    def owners(self) -> dict[str, str]:
        """Return all owners and their addresses."""
        return dict(self._leases.reserved)

    def take(self, subnet: Subnet, owner: str) -> IPv4Address:
        """Reserve an address, or return the owner's own if it has one in this subnet. Raises Exhausted."""
        held = self._leases.reserved.get(owner)
        if held is not None and IPv4Address(held) in subnet.network:
            return IPv4Address(held)
        address = next_free(subnet, self._leases.last, self._leases.reserved)
        self._write(
            Leases(last=str(address), reserved={**self._leases.reserved, owner: str(address)}),
        )
        return address

    def free(self, owner: str) -> None:
        """Give the owner's address back; it is the last to be given again."""
        if owner in self._leases.reserved:
            rest = {key: value for key, value in self._leases.reserved.items() if key != owner}
            self._write(Leases(last=self._leases.last, reserved=rest))

    def _write(self, leases: Leases) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(leases))
        fresh.replace(self._path)
        self._leases = leases
