"""The first packet of a connection, byte by byte: TCP's SYN, an empty UDP datagram, SCTP's INIT. Pure.

RFC 791, 8200, 9293, 768, 9260.
"""

import struct
from ipaddress import ip_address

from kubeproxy.kernel.netlink_messages import PROTOCOL_NUMBER
from kubeproxy.model.objects import Protocol

_HOPS = 64
_DO_NOT_FRAGMENT = 0x4000
_SYN = 0x02
_INIT = 1
_WINDOW = 64240


def first_packet(protocol: Protocol, source: str, source_port: int, destination: str, port: int) -> bytes:
    """Return a whole IP packet; both addresses are of one family."""
    ours, theirs = ip_address(source), ip_address(destination)
    body = payload(protocol, source, source_port, destination, port)
    number = PROTOCOL_NUMBER[protocol]
    if ours.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), number, _HOPS) + ours.packed + theirs.packed + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, _DO_NOT_FRAGMENT, _HOPS, number, 0)
    head += ours.packed + theirs.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def payload(protocol: Protocol, source: str, source_port: int, destination: str, port: int) -> bytes:
    """Return what stands behind the IP header."""
    if protocol is Protocol.SCTP:
        chunk = struct.pack("!BBHIIHHI", _INIT, 0, 20, source_port, 65536, 1, 1, 1)
        head = struct.pack("!HHI", source_port, port, 0)
        return head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk
    pseudo = ip_address(source).packed + ip_address(destination).packed
    number = PROTOCOL_NUMBER[protocol]
    if protocol is Protocol.UDP:
        head = struct.pack("!HHHH", source_port, port, 8, 0)
        found = checksum(pseudo + struct.pack("!HH", number, 8) + head) or 0xFFFF
        return head[:6] + struct.pack("!H", found)
    head = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, _SYN, _WINDOW, 0, 0)
    found = checksum(pseudo + struct.pack("!HH", number, len(head)) + head)
    return head[:16] + struct.pack("!HH", found, 0)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
