"""Domain names: text and wire form, suffixes, and the names of reverse zones.

Text names are lower case with a trailing dot (`svc1.ns.svc.cluster.local.`), as configuration and records
use them; wire names are uncompressed, as packets carry them (RFC 1035 §3.1). Both have limits that bad input
would break, so both conversions check them.
"""

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
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        raise BadName(f"{text[:80]!r}: not ASCII") from None
    labels = raw.removesuffix(b".").split(b".")
    if not all(0 < len(label) <= MAX_LABEL for label in labels):
        raise BadName(f"{text[:80]!r}: a label is empty or longer than {MAX_LABEL} bytes")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(wire) > MAX_WIRE:
        raise BadName(f"{text[:80]!r}: longer than {MAX_WIRE} bytes")
    return wire


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
    return ip_address(address).reverse_pointer + "."


def address_of_reverse(name: str) -> str | None:
    """Return the address that a whole reverse name stands for, or None when it stands for none."""
    labels = name.removesuffix(".").split(".")
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return str(ip_address(".".join(reversed(labels[:4]))))
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34 and all(len(label) == 1 for label in labels[:32]):
            digits = "".join(reversed(labels[:32]))
            return str(ip_address(":".join(digits[at : at + 4] for at in range(0, 32, 4))))
    except ValueError:
        return None
    return None


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
