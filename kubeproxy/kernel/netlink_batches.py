"""Many netlink messages behind one another, for few sends. Pure.

They are packed into memory that the next send uses again: new memory for each would be paid for page by page.
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

Room = bytearray | mmap
"""Where messages are packed; most that one send carries."""


def batches(
    requests: Iterable[Request], sequence: int, room: Room, answers_bytes: int
) -> Iterator[tuple[memoryview | bytes, int]]:
    """Yield what goes out in one send, with the number of its messages; it is sent before the next is asked for.

    They are numbered from ``sequence`` on. Only the last of a send asks for an answer whatever becomes of it.
    Should every one be refused, the answers still fit ``answers_bytes``: an answer is counted with the request in
    it, twice as memory is given out in powers of two. Most leave the request out, but ipset's bring it back whole.
    A message that is too long by itself goes alone.
    """
    view, limit, pack = memoryview(room), len(room), HEADER.pack_into
    end = last = count = answers = 0
    for kind, flags, body in requests:
        size = len(body) + HEADER.size
        answer = ANSWER_BYTES + 2 * size
        if count and (end + size > limit or answers + answer > answers_bytes):
            _ask(room, last)
            yield view[:end], count
            end = count = answers = 0
        if size > limit:
            yield message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, sequence, body), 1
            sequence += 1
            continue
        pack(room, end, size, kind, flags | NLM_F_REQUEST, sequence, 0)
        room[end + HEADER.size : end + size] = body
        last = end
        end += size
        answers += answer
        count += 1
        sequence += 1
    if count:
        _ask(room, last)
        yield view[:end], count


def _ask(room: Room, start: int) -> None:
    """Have the message at ``start`` answered."""
    size, kind, flags, sequence, port = HEADER.unpack_from(room, start)
    HEADER.pack_into(room, start, size, kind, flags | NLM_F_ACK, sequence, port)
