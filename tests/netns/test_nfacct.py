"""nfacct counters on the real kernel: made, counted into by rules of both flavours and families, read."""

import socket
from collections.abc import Iterator

import pytest

from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.model.addresses import Family
from tests.netns.packet_lab import PacketLab, packet_lab

pytestmark = pytest.mark.netns

RULE = "*filter\n:OURS - [0:0]\n-A OURS -m nfacct --nfacct-name {} -j RETURN\n-I OUTPUT -p udp -j OURS\nCOMMIT\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with packet_lab() as built:
        yield built


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("family", list(Family))
def test_packets_are_counted(lab: PacketLab, flavour: Flavour, family: Family) -> None:
    name, counters = f"t-{flavour}-{family.value}", Nfacct()
    kind, address = (socket.AF_INET, "127.0.0.1") if family is Family.V4 else (socket.AF_INET6, "::1")

    def work() -> list[int | None]:
        tables = Iptables(SystemExec(), family, flavour)
        assert tables.has_match("nfacct")
        found = [counters.packets(name)]
        counters.ensure(name)
        counters.ensure(name)
        found.append(counters.packets(name))
        tables.restore(RULE.format(name))
        with socket.socket(kind, socket.SOCK_DGRAM) as client:
            for _ in range(3):
                client.sendto(b"?", (address, 9))
        found.append(counters.packets(name))
        return found

    assert lab.run("node", work) == [None, 0, 3]


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize(("match", "there"), [("conntrack", True), ("addrtype", True), ("no-such-thing", False)])
def test_a_match_that_the_kernel_lacks_is_known(
    lab: PacketLab, flavour: Flavour, family: Family, match: str, there: bool
) -> None:
    assert lab.run("node", lambda: Iptables(SystemExec(), family, flavour).has_match(match)) is there


def test_a_refusal_names_the_counter(lab: PacketLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeproxy.kernel.nfacct.SUBSYSTEM", 0xFE << 8)
    with pytest.raises(KernelError, match="nfacct mine: Invalid argument"):
        lab.run("node", lambda: Nfacct().ensure("mine"))
    assert lab.run("node", lambda: Nfacct().packets("mine")) is None
