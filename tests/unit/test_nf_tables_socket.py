"""The socket for batches: the numbers of its messages, and answers that make no sense."""

import errno
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from kubeproxy.kernel.netlink import LAST_SEQUENCE
from kubeproxy.kernel.netlink_messages import NLMSG_ERROR, message
from kubeproxy.kernel.nf_tables.batch import Part, datagram
from kubeproxy.kernel.nf_tables.socket import BatchSocket

pytestmark = pytest.mark.unit


@pytest.fixture
def netlink() -> Iterator[BatchSocket]:
    with BatchSocket() as opened:
        yield opened


class _Answering:
    """In the place of a socket: nothing is sent anywhere, and the kernel answers as it is told."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)

    def send(self, data: bytes) -> int:
        return len(data)

    def recv_into(self, buffer: memoryview, size: int, flags: int) -> int:
        if not self._answers:
            raise BlockingIOError
        answer = self._answers.pop(0)
        buffer[: len(answer)] = answer
        return len(answer)

    def close(self) -> None:
        """There is nothing to close."""


def _answers(netlink: Any, *answers: bytes) -> None:
    netlink._socket.close()
    netlink._socket = _Answering(*answers)


def test_numbers_are_in_a_row(netlink: BatchSocket) -> None:
    assert [netlink.reserve(count) for count in (3, 1, 5)] == [1, 4, 5]


def test_numbers_begin_anew_when_32_bits_do_not_hold_them(netlink: BatchSocket) -> None:
    parts = [Part(0, 0, 0xA00, 0, b"")]
    netlink._sequence = LAST_SEQUENCE - 1
    first = netlink.reserve(len(parts) + 2)
    assert first == 1
    assert datagram(parts, first)
    assert netlink.reserve(3) == 4


def test_refusals_and_the_answer_to_the_last(netlink: BatchSocket) -> None:
    refused, done = (
        message(NLMSG_ERROR, 0, number, struct.pack("=i", code)) for number, code in ((2, -17), (3, 0))
    )
    _answers(netlink, refused + done)
    assert [(each.code, each.sequence) for each in netlink.transact(b"", 1, 3)] == [(errno.EEXIST, 2)]


def test_an_answer_that_makes_no_sense_is_a_broken_socket(netlink: BatchSocket) -> None:
    _answers(netlink, b"\x01" + bytes(19))
    with pytest.raises(OSError, match="a netlink message of 1 bytes") as failed:
        netlink.transact(b"", 1, 3)
    assert failed.value.errno == errno.EBADMSG
