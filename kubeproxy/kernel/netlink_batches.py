"""Many netlink messages behind one another, for few sends. Pure.

They are gathered in memory that the next send uses again: new memory for each would be paid for page by page.
"""

from collections.abc import Iterable, Iterator
from mmap import mmap

from kubeproxy.kernel.netlink_messages import HEADER, NLM_F_ACK, NLM_F_REQUEST, message

ANSWER_BYTES = 1024
"""What an answer that is an error takes of the receive buffer, its 36 bytes of message notwithstanding.

The kernel counts the memory that holds it: 768 (a sk_buff of 256 and a block of 512) up to Linux 6.2, 960 since.
"""

Request = tuple[int, int, bytes]
"""Kind, flags and body of a message."""

Parcel = tuple[bytes, int]
"""Whole messages that are not parted, and how many they are."""

Room = bytearray | mmap
"""Where messages are gathered; most that one send carries."""


def numbered(requests: Iterable[Request], sequence: int) -> Iterator[Parcel]:
    """Yield the message of each request, numbered from ``sequence`` on."""
    for number, (kind, flags, body) in enumerate(requests, sequence):
        yield message(kind, flags | NLM_F_REQUEST, number, body), 1


def batches(parcels: Iterable[Parcel], room: Room, answers_bytes: int) -> Iterator[tuple[memoryview | bytes, int]]:
    """Yield what goes out in one send, with the number of its messages; it is sent before the next is asked for.

    Only the last message of a send asks for an answer whatever becomes of it. Should every one be refused, the
    answers still fit ``answers_bytes``: an answer is counted with the request in it, twice as memory is given out
    in powers of two. Most leave the request out, but ipset's bring it back whole. A parcel that is too long by
    itself goes alone.
    """
    view, limit = memoryview(room), len(room)
    last = end = count = answers = 0
    for data, messages in parcels:
        size = len(data)
        answer = ANSWER_BYTES * messages + 2 * size
        if count and (end + size > limit or answers + answer > answers_bytes):
            _ask(room, last, end)
            yield view[:end], count
            end = count = answers = 0
        if size > limit:
            alone = bytearray(data)
            _ask(alone, 0, size)
            yield bytes(alone), messages
            continue
        room[end : end + size] = data
        last = end
        end += size
        answers += answer
        count += messages
    if count:
        _ask(room, last, end)
        yield view[:end], count


def _ask(room: Room, start: int, end: int) -> None:
    """Have the last of the messages from ``start`` to ``end`` answered."""
    while True:
        size, kind, flags, sequence, port = HEADER.unpack_from(room, start)
        if start + size >= end:
            break
        start += size
    HEADER.pack_into(room, start, size, kind, flags | NLM_F_ACK, sequence, port)
