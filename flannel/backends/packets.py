"""What the userspace forwarder does with one IPv4 packet: route, count down, refuse. PURE, bytes in and out.

The TTL goes down on both sides of the tunnel with RFC 1624's incremental checksum, as in flannel's C proxy;
a packet whose TTL ends here is answered with Time Exceeded where flannel drops it silently. The routing table is
longest prefix first (flannel: first match), and a lookup that was made once is one dictionary access.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

Hop = tuple[str, int]
"""Where the tunnelled packet goes: address and UDP port."""

HEADER_BYTES = 20
ICMP_PROTOCOL = 1
UNREACHABLE = (3, 0)
TIME_EXCEEDED = (11, 0)
ICMP_TTL = 8
MAX_CACHED = 65536
"""Addresses remembered; past that all are forgotten, so that a scan of addresses cannot eat the memory."""


class RouteTable:
    """Next hops by destination, longest prefix first. `hops` is the cache that the hot loop reads itself."""

    def __init__(self, routes: Iterable[tuple[IPv4Network, Hop]]) -> None:
        self.hops: dict[bytes, Hop | None] = {}
        self.nodes: set[str] = set()
        """Every node that packets may come from."""
        by_length: dict[int, dict[int, Hop]] = {}
        for network, hop in routes:
            by_length.setdefault(32 - network.prefixlen, {})[_high_bits(network)] = hop
            self.nodes.add(hop[0])
        self._by_length = sorted(by_length.items())

    def find(self, address: bytes) -> Hop | None:
        """Look an address up and remember the answer."""
        if len(self.hops) >= MAX_CACHED:
            self.hops.clear()
        number = int.from_bytes(address, "big")
        found = next((hop for shift, hops in self._by_length if (hop := hops.get(number >> shift))), None)
        self.hops[address] = found
        return found


def _high_bits(network: IPv4Network) -> int:
    return int(network.network_address) >> (32 - network.prefixlen)


def is_ipv4(packet: bytes | bytearray) -> bool:
    """Whether it is an IPv4 packet with a whole header."""
    return len(packet) >= HEADER_BYTES and packet[0] >> 4 == 4


def count_down(packet: bytearray) -> bool:
    """Take one from the TTL; False, and the packet unchanged, when none would be left."""
    if packet[8] <= 1:
        return False
    packet[8] -= 1
    checksum = (packet[10] << 8 | packet[11]) + 0x100
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    packet[10], packet[11] = checksum >> 8, checksum & 0xFF
    return True


def icmp_error(kind: tuple[int, int], packet: bytes | bytearray, source: IPv4Address) -> bytes | None:
    """Return the ICMP error for a packet, or None where none may be sent: about ICMP, or a later fragment."""
    later_fragment = (packet[6] & 0x1F) << 8 | packet[7]
    if packet[9] == ICMP_PROTOCOL or later_fragment:
        return None
    quoted = bytes(packet[: (packet[0] & 0xF) * 4 + 8])
    body = struct.pack("!BBHI", *kind, 0, 0) + quoted
    body = body[:2] + _checksum(body) + body[4:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, HEADER_BYTES + len(body), 0, 0, ICMP_TTL, ICMP_PROTOCOL, 0)
    head += source.packed + bytes(packet[12:16])
    return head[:10] + _checksum(head) + head[12:] + body


def _checksum(data: bytes) -> bytes:
    # The sum of 16 bit words in ones' complement is the number modulo 65535 (RFC 1071).
    padded = data + b"\0" * (len(data) % 2)
    rest = int.from_bytes(padded, "big") % 0xFFFF
    return struct.pack("!H", 0xFFFF - rest)
