"""A kernel whose nf_tables knows no IP family, as that of the machine does not, says so in words that help."""

import errno

import pytest

from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nftables import Nftables
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.uml


@pytest.mark.parametrize("family", list(Family))
def test_a_kernel_without_such_tables_is_told(family: Family) -> None:
    table = KernelTable(family)
    with pytest.raises(Refused, match="modprobe nf_tables") as caught:
        table.commit([t.AddTable(), t.AddChain(t.Chain("services"))])
    assert (caught.value.code, caught.value.change) == (errno.EOPNOTSUPP, 0)
    assert not table.exists()
    assert (table.chains(), table.sets(), table.rules("services")) == ({}, {}, [])
    assert not Nftables().delete_table(family, "kube-proxy")
