"""How many requests go into one send."""

import pytest

from kubeproxy.kernel.netlink import slices

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([84] * 3, [(0, 3)]),
        ([84] * 10, [(0, 10)]),
        ([84] * 11, [(0, 10), (10, 11)]),
        ([4] * 26, [(0, 25), (25, 26)]),
        ([84] * 9 + [85], [(0, 9), (9, 10)]),
        ([84, 5000, 84], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_a_send_is_bounded_by_bytes_and_by_the_answers_that_may_come(
    sizes: list[int], expected: list[tuple[int, int]]
) -> None:
    # A header is 16 bytes: ten requests of 84 make 1,000.
    assert list(slices(sizes, 1000, 25)) == expected
