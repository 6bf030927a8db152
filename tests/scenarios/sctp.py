"""SCTP by hand: an INIT and its answer, since few kernels that tests run on have SCTP sockets. Pure."""

import struct

HEADER = struct.Struct("!HHII")
INIT, INIT_ACK = 1, 2
_CHUNK = struct.Struct("!BBHIIHHI")


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(kind: int, source: int, port: int, tag: int, note: bytes = b"") -> bytes:
    """Return an INIT or INIT ACK (RFC 9260 §3.3.2, 3.3.3); a note travels as an unknown parameter to be skipped.

    An INIT announces ``tag``; its answer carries that tag in the header, or connection tracking drops it.
    """
    parameter = struct.pack("!HH", 0x8001, 4 + len(note)) + note + bytes(-len(note) % 4) if note else b""
    chunk = _CHUNK.pack(kind, 0, _CHUNK.size + len(parameter), tag, 65536, 1, 1, tag) + parameter
    verification = tag if kind == INIT_ACK else 0
    zero = HEADER.pack(source, port, verification, 0) + chunk
    return zero[:8] + struct.pack("<I", _crc32c(zero)) + chunk


def parse(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Return source port, port, kind of the first chunk, its tag, and the note."""
    source, port, _, _ = HEADER.unpack_from(data)
    kind, _, _, tag, *_ = _CHUNK.unpack_from(data, HEADER.size)
    rest = data[HEADER.size + _CHUNK.size :]
    if len(rest) < 4:
        return source, port, kind, tag, b""
    (length,) = struct.unpack_from("!H", rest, 2)
    return source, port, kind, tag, rest[4:length]
