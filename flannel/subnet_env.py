"""subnet.env: what container networking reads to learn this node's subnet, and we at the next start.

Written whole or not at all (a file beside it, renamed over it), in flannel's format: FLANNEL_SUBNET is the
subnet's first usable address with the subnet's length.
"""

import os
import tempfile
from ipaddress import IPv4Network
from pathlib import Path

import msgspec

from flannel.netconf import NetConf

_MAX_BYTES = 65536


class PreviousSubnets(msgspec.Struct, frozen=True, kw_only=True):
    """What subnet.env said before; None for what is absent or is no network."""

    network: IPv4Network | None = None
    subnet: IPv4Network | None = None


def render_subnet_env(netconf: NetConf, subnet: IPv4Network, mtu: int, *, masquerade: bool) -> str:
    """Return the text of subnet.env."""
    return (
        f"FLANNEL_NETWORK={netconf.network}\n"
        f"FLANNEL_SUBNET={subnet.network_address + 1}/{subnet.prefixlen}\n"
        f"FLANNEL_MTU={mtu}\n"
        f"FLANNEL_IPMASQ={'true' if masquerade else 'false'}\n"
    )


def parse_subnet_env(text: str) -> PreviousSubnets:
    """Read subnet.env back; lines that make no sense are passed over."""
    values = dict(line.strip().partition("=")[::2] for line in text.splitlines() if "=" in line)
    return PreviousSubnets(
        network=_network(values.get("FLANNEL_NETWORK", "")), subnet=_network(values.get("FLANNEL_SUBNET", ""))
    )


def _network(text: str) -> IPv4Network | None:
    try:
        return IPv4Network(text.strip("'\""), strict=False) if "/" in text else None
    except ValueError:
        return None


def read_subnet_env(path: Path) -> PreviousSubnets:
    """Read a file that need not exist."""
    try:
        with path.open("rb") as file:
            return parse_subnet_env(file.read(_MAX_BYTES).decode(errors="replace"))
    except FileNotFoundError:
        return PreviousSubnets()


def write_subnet_env(path: Path, text: str) -> None:
    """Replace the file, making its directory. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        beside.chmod(0o644)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
