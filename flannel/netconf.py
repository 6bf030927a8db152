"""The network configuration that all nodes share: net-conf.json, parsed, defaulted and checked. PURE.

It comes from the store (`<prefix>/config`), so it is hostile until it has passed here. Keys are
case-insensitive because flannel's decoder (Go's encoding/json) takes them so and its own tests rely on it.
The rules and defaults are flannel's ParseConfig and CheckNetworkConfig; every complaint names the key.
"""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

DEFAULT_BACKEND = "udp"
"""What flannel's code takes when no Backend is given (its documentation says vxlan)."""

_NARROWEST_NETWORK = 28
_NARROWEST_SUBNET = 30
_NOT_BUILT = {"enableipv6": "IPv6", "enablenftables": "the nftables variant of the masquerading rules"}


class NetConfError(ValueError):
    """A configuration that cannot be used; the text names the key and what is allowed."""


class BackendConf(msgspec.Struct, frozen=True, kw_only=True):
    """The Backend object: its type in lower case and its other keys, folded to lower case."""

    type: str = DEFAULT_BACKEND
    options: Mapping[str, Any] = {}


class NetConf(msgspec.Struct, frozen=True, kw_only=True):
    """A valid configuration: every node's subnet is one of ``subnets()``."""

    network: IPv4Network
    subnet_length: int
    subnet_min: IPv4Address
    subnet_max: IPv4Address
    backend: BackendConf = BackendConf()

    def fits(self, subnet: IPv4Network) -> bool:
        """Whether a lease of this subnet may be used under this configuration."""
        return (
            subnet.prefixlen == self.subnet_length
            and self.subnet_min <= subnet.network_address <= self.subnet_max
            and subnet.subnet_of(self.network)
        )

    def subnets(self) -> Iterator[IPv4Network]:
        """Yield every subnet that may be leased, lowest first."""
        step = 1 << (32 - self.subnet_length)
        for address in range(int(self.subnet_min), int(self.subnet_max) + 1, step):
            yield IPv4Network((address, self.subnet_length))


def parse_netconf(data: bytes) -> NetConf:
    """Parse net-conf.json. Raises `NetConfError`."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NetConfError(f"network configuration: no valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise NetConfError("network configuration: must be a JSON object")
    fields = _folded(raw)
    for key, what in _NOT_BUILT.items():
        if _boolean(fields, key, default=False):
            raise NetConfError(f"{_SPELLING[key]}: {what} is not built yet; leave it false")
    if not _boolean(fields, "enableipv4", default=True):
        raise NetConfError("EnableIPv4: false is not built yet; the overlay is IPv4 only")
    network = _network(fields)
    length = _subnet_length(fields, network)
    lowest, highest = _bounds(fields, network, length)
    return NetConf(
        network=network,
        subnet_length=length,
        subnet_min=lowest,
        subnet_max=highest,
        backend=_backend(fields.get("backend")),
    )


_SPELLING = {
    key.lower(): key
    for key in ("EnableIPv4", "EnableIPv6", "EnableNFTables", "Network", "SubnetLen", "SubnetMin", "SubnetMax")
}


def _folded(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in raw.items() if value is not None}


def _boolean(fields: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = fields.get(key, default)
    if not isinstance(value, bool):
        raise NetConfError(f"{_SPELLING[key]}: must be true or false")
    return value


def _network(fields: Mapping[str, Any]) -> IPv4Network:
    text = fields.get("network", "")
    if text == "":
        raise NetConfError("Network: please define a correct Network parameter in the flannel config")
    try:
        if not isinstance(text, str) or "/" not in text:
            raise ValueError
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise NetConfError(f"Network: {str(text)[:64]!r} is no IPv4 network such as 10.244.0.0/16") from None
    if network.prefixlen > _NARROWEST_NETWORK:
        raise NetConfError("Network: is too small; the minimum useful network prefix is /28")
    return network


def _subnet_length(fields: Mapping[str, Any], network: IPv4Network) -> int:
    length = fields.get("subnetlen", 0)
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise NetConfError("SubnetLen: must be a whole number")
    if length == 0:
        return 24 if network.prefixlen <= 22 else network.prefixlen + 2
    if length > _NARROWEST_SUBNET:
        raise NetConfError("SubnetLen: must be less than /31")
    if length < network.prefixlen + 2:
        raise NetConfError("SubnetLen: Network must be able to accommodate at least four subnets")
    return length


def _bounds(fields: Mapping[str, Any], network: IPv4Network, length: int) -> tuple[IPv4Address, IPv4Address]:
    size = 1 << (32 - length)
    lowest = _bound(fields, "subnetmin", network, size) or network.network_address + size
    highest = _bound(fields, "subnetmax", network, size) or network.broadcast_address - (size - 1)
    if lowest > highest:
        raise NetConfError(f"SubnetMin: {lowest} is above SubnetMax {highest}")
    return lowest, highest


def _bound(fields: Mapping[str, Any], key: str, network: IPv4Network, size: int) -> IPv4Address | None:
    text = fields.get(key, "")
    if text in ("", "0.0.0.0"):
        return None
    name = _SPELLING[key]
    try:
        if not isinstance(text, str):
            raise ValueError
        address = IPv4Address(text)
    except ValueError:
        raise NetConfError(f"{name}: {str(text)[:64]!r} is no IPv4 address") from None
    if address not in network:
        raise NetConfError(f"{name}: {address} is not in the range of the Network {network}")
    if int(address) % size:
        raise NetConfError(f"{name}: {address} is not on a SubnetLen boundary")
    return address


def _backend(raw: Any) -> BackendConf:
    if raw is None:
        return BackendConf()
    if not isinstance(raw, dict):
        raise NetConfError("Backend: must be a JSON object")
    options = _folded(raw)
    kind = options.pop("type", "")
    if not isinstance(kind, str):
        raise NetConfError("Backend.Type: must be a string")
    return BackendConf(type=kind.lower() or DEFAULT_BACKEND, options=options)
