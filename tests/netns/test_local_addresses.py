"""The machine's own addresses, as the kernel has them in a namespace."""

from collections.abc import Iterator

import pytest

from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.model.addresses import Family
from tests.scenarios.addresses import OWN
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with build_lab() as built:
        yield built


@pytest.mark.parametrize("family", list(Family))
def test_addresses_of_every_interface_but_link_local_ones(lab: Lab, family: Family) -> None:
    # Those need an interface to be meant, and every interface here has one.
    assert set(lab.run("node", lambda: local_addresses(family))) == OWN[family]
