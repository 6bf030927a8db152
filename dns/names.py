"""Domain names: text and wire form, suffixes, and the names of reverse zones.

Text names are lower case with a trailing dot (`svc1.ns.svc.cluster.local.`), as configuration and records
use them; wire names are uncompressed, as packets carry them (RFC 1035 §3.1). Both have limits that bad input
would break, so both conversions check them.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

MAX_WIRE = 255
MAX_LABEL = 63


class BadName(ValueError):
    """Not a domain name: an empty or over-long label, or too long as a whole."""


def fqdn(text: str) -> str:
    """Return a name in lower case with its trailing dot."""
    lowered = text.lower()
    return lowered if lowered.endswith(".") else lowered + "."


def to_wire(text: str) -> bytes:
    """Encode a text name (no escapes: records and zones have none). Raises BadName."""
    if text in (".", ""):
        return b"\0"
    label, _, parent = text.removesuffix(".").partition(".")
    wire = _label(label) + (_parent(parent) if parent else b"\0")
    if len(wire) > MAX_WIRE:
        raise BadName(f"{text[:80]!r}: longer than {MAX_WIRE} bytes")
    return wire


@lru_cache(maxsize=4096)
def _parent(text: str) -> bytes:
    """Encode what is behind the first label: the names of one Service share it."""
    return b"".join(_label(label) for label in text.split(".")) + b"\0"


def _label(text: str) -> bytes:
    if not 0 < len(text) <= MAX_LABEL or not text.isascii():
        raise BadName(f"{text[:80]!r}: a label is empty, longer than {MAX_LABEL} bytes or not ASCII")
    return bytes((len(text),)) + text.encode("ascii")


def packed(address: str) -> bytes:
    """Return the bytes of a canonical address."""
    if ":" in address:
        return ip_address(address).packed
    return bytes(map(int, address.split(".")))


def labels_of(wire: bytes) -> list[bytes]:
    """Split a checked wire name into its labels, without the root."""
    labels = []
    at = 0
    while size := wire[at]:
        labels.append(wire[at + 1 : at + 1 + size])
        at += size + 1
    return labels


def to_text(wire: bytes) -> str:
    """Render a checked wire name for a log line: everything but letters, digits, `-` and `_` is escaped."""
    parts = []
    for label in labels_of(wire):
        for byte in label:
            letter = chr(byte)
            plain = letter.isascii() and (letter.isalnum() or letter in "-_/*")
            parts.append(letter if plain else f"\\{byte:03d}")
        parts.append(".")
    return "".join(parts) or "."


def is_below(name: str, zone: str) -> bool:
    """Say whether a text name is the zone itself or lies in it."""
    return zone == "." or name == zone or name.endswith("." + zone)


def reverse_name(address: str) -> str:
    """Return `4.3.2.1.in-addr.arpa.` for an address."""
    if ":" in address:
        return ip_address(address).reverse_pointer + "."
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa."


def is_reverse(zone: str) -> bool:
    """Say whether a zone holds addresses: in-addr.arpa or ip6.arpa or below."""
    return is_below(zone, "in-addr.arpa.") or is_below(zone, "ip6.arpa.")


def zones_of_cidr(text: str) -> list[str]:
    """Return the reverse zones of a CIDR, split up to the next octet (nibble for IPv6). Raises ValueError.

    `10.0.0.0/9` is 128 zones: those of its /16 networks. Like CoreDNS, a prefix longer than /24 gives the
    zone of its /24.
    """
    network = ip_network(text, strict=False)
    step = 8 if isinstance(network, IPv4Network) else 4
    limit = network.max_prefixlen - step if isinstance(network, IPv4Network) else network.max_prefixlen
    if network.prefixlen > limit:
        return [_reverse_zone(network.supernet(new_prefix=limit), step)]
    length = -(-network.prefixlen // step) * step
    return [_reverse_zone(net, step) for net in network.subnets(new_prefix=length)]


def _reverse_zone(network: IPv4Network | IPv6Network, step: int) -> str:
    total = network.max_prefixlen // step
    kept = network.prefixlen // step
    pointer = network.network_address.reverse_pointer.split(".")
    return ".".join(pointer[total - kept :]) + "."
