"""The bytes of nfacct's messages."""

import pytest

from kubeproxy.kernel.netlink_messages import attribute
from kubeproxy.kernel.nfacct_messages import NAME_MAX, decode_packets, encode_name

pytestmark = pytest.mark.unit


def test_a_name_is_a_string_of_its_own_length() -> None:
    assert encode_name("abc") == b"\0\0\0\0\x08\0\x01\0abc\0"


@pytest.mark.parametrize("name", ["", "x" * (NAME_MAX + 1)])
def test_a_name_that_the_kernel_would_cut_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 31"):
        encode_name(name)


def test_packets_are_read_from_what_the_kernel_answers() -> None:
    body = bytes(4) + attribute(1, b"abc\0") + attribute(2, (2**40).to_bytes(8, "big")) + attribute(3, bytes(8))
    assert decode_packets(body) == 2**40
