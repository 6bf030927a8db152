"""How many requests go into one send."""

import pytest

from kubeproxy.kernel.netlink import ANSWER_BYTES, sends

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([84] * 3, [(0, 3)]),
        ([84] * 10, [(0, 10)]),
        ([84] * 11, [(0, 10), (10, 11)]),
        ([84] * 9 + [85], [(0, 9), (9, 10)]),
        ([84, 5000, 84], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_a_send_is_bounded_by_bytes(sizes: list[int], expected: list[tuple[int, int]]) -> None:
    # A header is 16 bytes: ten requests of 84 make 1,000.
    assert list(sends(sizes, 1000, 1 << 30)) == expected


def test_a_send_is_bounded_by_the_answers_that_may_come() -> None:
    answer = ANSWER_BYTES + 2 * 100
    assert list(sends([84] * 26, 1 << 20, 25 * answer)) == [(0, 25), (25, 26)]
    assert list(sends([84] * 26, 1 << 20, 25 * answer - 1)) == [(0, 24), (24, 26)]


def test_what_one_mebibyte_of_ipvs_needs_fits_its_buffer() -> None:
    assert list(sends([115] * 8000, 1 << 20, 16 << 20)) == [(0, 8000)]
