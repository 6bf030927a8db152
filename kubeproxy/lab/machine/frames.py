"""What host and guest say to each other: frames over a byte stream, for many commands at once. Pure.

A frame is a kind (1 byte), the number of the command it belongs to (4) and a body with its length (4), big-endian.
Nobody sends more of a command's bytes than the other end has room for: each side begins with WINDOW_BYTES of
credit and gets back what was consumed. So whoever relays frames never has to hold a stream back.

The guest imports this without site packages: the standard library only.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

_HEAD = struct.Struct("!BII")
_NUMBERS = struct.Struct("!HH")
_COUNT = struct.Struct("!I")

WINDOW_BYTES = 65536
CHUNK_BYTES = 16384
LONGEST_BODY = 1 << 20
LINE_BYTES = 3072
"""How much may be under way to the guest: a UML line whose 4096 bytes of buffer fill up is deaf from then on.

(The kernel's line_throttle gives up the descriptor's interrupt, and since 4.15 nothing asks for it again.)
"""


class Kind(IntEnum):
    """What a frame says. Those of the first line belong to no command."""

    HELLO, SETUP, READY, STOP = 1, 2, 3, 4
    """The guest's process 1 runs; what it shall set up (JSON); done, or why not (JSON); power off."""
    OPEN, CLOSE, EXIT = 5, 6, 7
    """Start a command (JSON); its client has gone; it has ended (JSON)."""
    INPUT, OUTPUT, ERROR_OUTPUT = 8, 9, 10
    """Bytes. An empty INPUT is the end of it."""
    CREDIT = 11
    """So many bytes were consumed: of INPUT to the host, of OUTPUT and ERROR_OUTPUT to the guest."""
    SIGNAL, WINDOW = 12, 13
    """Signal the command's process group; its terminal has so many rows and columns."""
    TAKEN = 14
    """The guest has read so many bytes of the line; belongs to no command."""


class Frame(NamedTuple):
    """One message."""

    kind: Kind
    session: int = 0
    body: bytes = b""


class FrameError(ValueError):
    """The stream is not one of frames; it cannot be followed any more."""


def encode(frame: Frame) -> bytes:
    """Return a frame's bytes."""
    return _HEAD.pack(frame.kind, frame.session, len(frame.body)) + frame.body


def encode_json(kind: Kind, session: int, **values: object) -> bytes:
    """Return the bytes of a frame whose body is a JSON object."""
    return encode(Frame(kind, session, json.dumps(values).encode()))


def counted(kind: Kind, session: int, count: int) -> bytes:
    """Return a CREDIT or TAKEN of ``count`` bytes."""
    return encode(Frame(kind, session, _COUNT.pack(count)))


def window(session: int, rows: int, columns: int) -> bytes:
    """Return the frame that tells a terminal's size."""
    return encode(Frame(Kind.WINDOW, session, _NUMBERS.pack(rows, columns)))


def signalled(session: int, number: int) -> bytes:
    """Return the frame that asks for a signal."""
    return encode(Frame(Kind.SIGNAL, session, bytes([number])))


def values(frame: Frame) -> Mapping[str, Any]:
    """Return the JSON object in a frame. Raises FrameError."""
    try:
        found = json.loads(frame.body)
    except ValueError as error:
        raise FrameError(f"{frame.kind.name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise FrameError(f"{frame.kind.name} holds no JSON object")
    return found


def count(frame: Frame) -> int:
    """Return how many bytes a CREDIT or TAKEN is about. Raises FrameError."""
    if len(frame.body) != _COUNT.size:
        raise FrameError(f"{frame.kind.name} has a wrong length")
    return int(_COUNT.unpack(frame.body)[0])


def size(frame: Frame) -> tuple[int, int]:
    """Return a WINDOW's rows and columns. Raises FrameError."""
    if len(frame.body) != _NUMBERS.size:
        raise FrameError("WINDOW has a wrong length")
    rows, columns = _NUMBERS.unpack(frame.body)
    return rows, columns


class Decoder:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with ``data``. Raises FrameError, and is of no use after it."""
        self._rest += data
        while len(self._rest) >= _HEAD.size:
            kind, session, length = _HEAD.unpack_from(self._rest)
            if length > LONGEST_BODY:
                raise FrameError(f"a frame of {length} bytes")
            end = _HEAD.size + length
            if len(self._rest) < end:
                return
            body = bytes(self._rest[_HEAD.size : end])
            del self._rest[:end]
            try:
                known = Kind(kind)
            except ValueError:
                raise FrameError(f"a frame of unknown kind {kind}") from None
            yield Frame(known, session, body)
