"""Whether nftables mode can run is asked of the kernel, and leaves nothing there."""

import errno

import pytest

from kubeproxy.dataplane.nftables.needs import PROBE_TABLE, trouble
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.types import AddSet
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("family", Family)
def test_a_kernel_that_can_is_left_as_it_was(family: Family) -> None:
    table = FakeTable(family, PROBE_TABLE)
    assert trouble(table) == ""
    assert not table.exists()
    assert table.commits == []


def test_a_kernel_without_nf_tables_cannot() -> None:
    table = FakeTable(name=PROBE_TABLE)
    table.kernel.present = False
    assert "nf_tables" in trouble(table)


def test_a_kernel_too_old_for_a_set_says_which() -> None:
    table = FakeTable(name=PROBE_TABLE)
    table.refuses = lambda step: errno.EOPNOTSUPP if isinstance(step, AddSet) and step.spec.dynamic else 0
    assert "affinity" in trouble(table)


def test_who_may_not_ask_is_told_what_it_takes() -> None:
    table = FakeTable(name=PROBE_TABLE)
    table.failures = [Refused(errno.EPERM, "Operation not permitted")]
    assert "CAP_NET_ADMIN" in trouble(table)


def test_a_socket_that_cannot_be_had_is_told() -> None:
    table = FakeTable(name=PROBE_TABLE)
    table.failures = [OSError(errno.EPROTONOSUPPORT, "Protocol not supported")]
    assert "Protocol not supported" in trouble(table)
