"""How many requests go into one send, and what is sent."""

from collections.abc import Iterator

import pytest

from kubeproxy.kernel.netlink_batches import ANSWER_BYTES, Request, batches, numbered
from kubeproxy.kernel.netlink_messages import NLM_F_ACK, NLM_F_REQUEST, messages

pytestmark = pytest.mark.unit

KIND = 33


def sends(sizes: list[int], send_bytes: int, answers_bytes: int) -> list[int]:
    """Return how many messages go into each send, when their bodies have these sizes."""
    requests = ((KIND, 0, b"\0" * size) for size in sizes)
    return [count for _, count in batches(numbered(requests, 1), bytearray(send_bytes), answers_bytes)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([84] * 3, [3]),
        ([84] * 10, [10]),
        ([84] * 11, [10, 1]),
        ([84] * 9 + [88], [9, 1]),
        ([84, 5000, 84], [1, 1, 1]),
        ([5000, 84, 84], [1, 2]),
    ],
)
def test_a_send_is_bounded_by_bytes(sizes: list[int], expected: list[int]) -> None:
    # A header is 16 bytes: ten requests of 84 make 1,000.
    assert sends(sizes, 1000, 1 << 30) == expected


def test_a_send_is_bounded_by_the_answers_that_may_come() -> None:
    answer = ANSWER_BYTES + 2 * 100
    assert sends([84] * 26, 1 << 20, 25 * answer) == [25, 1]
    assert sends([84] * 26, 1 << 20, 25 * answer - 1) == [24, 2]


def test_what_one_send_holds_of_ipvs_needs_no_more_than_its_buffer() -> None:
    assert sends([115] * 2000, 1 << 18, 16 << 20) == [2000]


def test_messages_are_numbered_and_the_last_of_a_send_is_answered() -> None:
    bodies = [b"one.", b"two2", b"x" * 400, b"four"]
    requests = [(KIND + number, 0x400, body) for number, body in enumerate(bodies)]
    room = bytearray(64)
    # The room is used again, so a batch is read before the next one is asked for.
    sent = [list(messages(bytes(data))) for data, _ in batches(numbered(requests, 7), room, 1 << 20)]
    asked, answered = NLM_F_REQUEST | 0x400, NLM_F_REQUEST | 0x400 | NLM_F_ACK
    assert sent == [
        [(33, asked, 7, b"one."), (34, answered, 8, b"two2")],
        [(35, answered, 9, b"x" * 400)],
        [(36, answered, 10, b"four")],
    ]


def test_requests_are_taken_as_they_are_sent() -> None:
    taken: list[int] = []

    def requests() -> Iterator[Request]:
        for number in range(6):
            taken.append(number)
            yield KIND, 0, b"\0" * 84

    sending = batches(numbered(requests(), 1), bytearray(200), 1 << 20)
    next(sending)
    assert taken == [0, 1, 2]
