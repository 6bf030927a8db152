"""The machine's own addresses, as the kernel has them in a namespace."""

from collections.abc import Iterator

import pytest

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.model.addresses import Family
from tests.netns.packet_lab import ALT_NODE_IP, NODE_IP, PacketLab, packet_lab

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with packet_lab() as built:
        yield built


def test_addresses_of_every_interface(lab: PacketLab) -> None:
    found = lab.run("node", lambda: local_addresses(Family.V4))
    assert set(found) == {"127.0.0.1", "10.244.0.1", NODE_IP, ALT_NODE_IP}


def test_link_local_addresses_need_an_interface_and_are_left_out(lab: PacketLab) -> None:
    inside = ["ip", "-n", lab.name("node"), "addr", "add", "fd00::11/64", "dev", "eth0", "nodad"]
    SystemExec().run(inside)
    assert set(lab.run("node", lambda: local_addresses(Family.V6))) == {"::1", "fd00::11"}
