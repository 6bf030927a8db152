"""Which packet counters rules may name: none of those that would have the kernel refuse everything."""

import pytest

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.counters import usable
from kubeproxy.kernel.exec import KernelError

pytestmark = pytest.mark.unit


class Kernel:
    """A kernel that has the match or has not, and refuses to make some counters."""

    def __init__(self, match: bool = True, refused: tuple[str, ...] = ()) -> None:
        self.match, self.refused = match, refused
        self.made: list[str] = []

    def has_match(self, match: str) -> bool:
        return self.match and match == "nfacct"

    def ensure(self, name: str) -> None:
        if name in self.refused:
            raise KernelError("Invalid argument")
        self.made.append(name)


def test_both_are_made() -> None:
    kernel = Kernel()
    assert usable(kernel, kernel) == set(names.COUNTERS)
    assert kernel.made == ["ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"]


def test_without_the_match_no_counter_is_any_use() -> None:
    kernel = Kernel(match=False)
    assert usable(kernel, kernel) == frozenset()
    assert kernel.made == []


def test_one_that_cannot_be_made_is_left_out() -> None:
    kernel = Kernel(refused=(names.CT_INVALID_COUNTER,))
    assert usable(kernel, kernel) == {names.LOCALHOST_NODEPORTS_COUNTER}
