"""nfacct counters on the real kernel: made, counted into by rules of both flavours and families, read."""

import socket
import struct
from collections.abc import Iterator

import pytest

from kubeproxy.dataplane.iptables import names
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.model.addresses import Family
from kubeproxy.testing.build import endpoint_slice
from tests.netns.iptables_bed import BE1, NODE_PORT, check, everywhere, programmed
from tests.scenarios.addresses import HOSTS, NODE
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab

pytestmark = pytest.mark.netns

RULE = "*filter\n:OURS - [0:0]\n-A OURS -m nfacct --nfacct-name {} -j RETURN\n-I OUTPUT -p udp -j OURS\nCOMMIT\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with build_lab() as built:
        yield built


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("family", list(Family))
def test_packets_are_counted(lab: Lab, flavour: Flavour, family: Family) -> None:
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
    lab: Lab, flavour: Flavour, family: Family, match: str, there: bool
) -> None:
    assert lab.run("node", lambda: Iptables(SystemExec(), family, flavour).has_match(match)) is there


def test_a_refusal_names_the_counter(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeproxy.kernel.nfacct.SUBSYSTEM", 0xFE << 8)
    with pytest.raises(KernelError, match="nfacct mine: Invalid argument"):
        lab.run("node", lambda: Nfacct().ensure("mine"))
    assert lab.run("node", lambda: Nfacct().packets("mine")) is None


WEB = (everywhere(), endpoint_slice("web", "80", [BE1]))


def counted(lab: Lab, counter: str) -> int:
    found = lab.run("node", lambda: Nfacct().packets(counter))
    assert found is not None
    return found


@pytest.mark.parametrize("flavour", list(Flavour))
def test_connections_to_node_ports_on_loopback_are_counted_and_no_others(lab: Lab, flavour: Flavour) -> None:
    with programmed(lab, WEB, flavour):
        before = counted(lab, names.LOCALHOST_NODEPORTS_COUNTER)
        for _ in range(3):
            check(lab, f"localhost 127.0.0.1:{NODE_PORT}", "be1 masq")
        check(lab, f"outside {NODE.v4}:{NODE_PORT}", "be1 masq")
        check(lab, f"localhost {NODE.v4}:{NODE_PORT}", "be1 masq")
        check(lab, "localhost 127.0.0.1:8088", "node same")
        assert counted(lab, names.LOCALHOST_NODEPORTS_COUNTER) == before + 3


@pytest.mark.parametrize("flavour", list(Flavour))
def test_forwarded_packets_that_belong_to_no_connection_are_counted(lab: Lab, flavour: Flavour) -> None:
    answer_to_nothing = struct.pack("!HHIIBBHHH", 4000, 80, 1, 1, 5 << 4, 0x12, 1000, 0, 0)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as client:
            client.bind((HOSTS["outside"].v4, 0))
            for _ in range(4):
                client.sendto(answer_to_nothing, (HOSTS["be1"].v4, 0))

    with programmed(lab, WEB, flavour):
        before = counted(lab, names.CT_INVALID_COUNTER)
        lab.run("outside", send)
        check(lab, "outside 10.244.0.11:80", "be1 same")  # and so all of them have passed
        assert counted(lab, names.CT_INVALID_COUNTER) == before + 4
