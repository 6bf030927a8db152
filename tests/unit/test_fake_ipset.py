"""The model of ipsets keeps the kernel's rules (tests/netns/test_ipset.py asks the kernel itself)."""

import pytest

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.ipset import EntriesRefused, Ipset
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.kernel.sets import Sets, entry_text
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

TCP = Protocol.TCP
ONE: dict[SetType, Member] = {
    SetType.ADDRESSES: "10.0.0.1",
    SetType.PORT_NUMBERS: 80,
    SetType.PORTS: ("10.0.0.1", TCP, 80),
    SetType.ENDPOINTS: ("10.0.0.1", TCP, 80),
    SetType.RANGES: ("10.0.0.1", TCP, 80, "10.0.0.0/8"),
    SetType.MARKS: ("10.0.0.1", TCP, 80, 1, 0xFF),
}


def test_the_model_and_the_real_ones_are_the_same_seam() -> None:
    seam: list[Sets] = [FakeSets(), Ipset(Family.V4)]
    assert len(seam) == 2


@pytest.mark.parametrize("kind", ONE)
def test_entries_come_and_go(kind: SetType) -> None:
    fake = FakeSets(Family.V4)
    assert fake.create("one", kind)
    fake.apply([("one", [ONE[kind]], [])])
    assert fake.members("one") == {ONE[kind]}
    assert fake.sizes("o") == {"one": 1}
    with pytest.raises(KernelError, match="another type"):
        fake.create("one", next(other for other in ONE if other is not kind))
    for other, entry in ONE.items():
        if other is not kind and {other, kind} != {SetType.PORTS, SetType.ENDPOINTS}:
            with pytest.raises(AssertionError, match="is no entry"):
                fake.add("one", [entry])
    fake.delete("one", [ONE[kind]])
    assert fake.members("one") == set()


def test_a_new_mark_takes_the_place_of_the_old_one() -> None:
    fake = FakeSets()
    fake.create("marks", SetType.MARKS)
    fake.add("marks", [("10.0.0.1", TCP, 80, 1, 0xFF), ("10.0.0.1", TCP, 81, 1, 0xFF)])
    old: list[Member] = [("10.0.0.1", TCP, 80, 1, 0xFF), ("10.0.0.1", TCP, 81, 9, 0xFF)]
    fake.apply([("marks", [("10.0.0.1", TCP, 80, 2, 0xFF)], old)])
    assert fake.members("marks") == {("10.0.0.1", TCP, 80, 2, 0xFF)}


def test_what_no_kernel_takes() -> None:
    fake = FakeSets(Family.V4)
    with pytest.raises(NetlinkError, match="Invalid argument"):
        fake.create("x" * 32, SetType.PORTS)
    with pytest.raises(NetlinkError, match="ipset none: No such file"):
        fake.add("none", ["10.0.0.1"])
    fake.create("ranges", SetType.RANGES)
    fake.create("ips", SetType.ADDRESSES)
    for name, entry in (
        ("ranges", ("10.0.0.1", TCP, 80, "0.0.0.0/0")),
        ("ranges", ("10.0.0.1", TCP, 80, "10.1.2.3/8")),
        ("ips", "010.0.0.1"),
        ("ips", "fd00::1"),
    ):
        with pytest.raises((AssertionError, ValueError)):
            fake.add(name, [entry])


def test_refusals_and_failures_come_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSets()
    fake.create("ports", SetType.PORTS)
    some: list[Member] = [("10.0.0.1", TCP, port) for port in (1, 2, 3)]
    fake.failures.append(KernelError("once"))
    with pytest.raises(KernelError, match="once"):
        fake.add("ports", some)
    fake.refused[some[1]] = "so there"
    with pytest.raises(EntriesRefused, match=r"ipset ports: entry 10\.0\.0\.1,tcp:2: so there") as caught:
        fake.add("ports", some)
    assert caught.value.refused == {("ports", some[1]): "so there"}
    assert fake.members("ports") == {some[0], some[2]}
    monkeypatch.setattr(SetType.PORTS, "max_elements", 2)
    with pytest.raises(EntriesRefused, match="the set is full"):
        fake.add("ports", [("10.0.0.1", TCP, 4)])


def test_entries_are_written_as_ipset_does() -> None:
    assert [
        entry_text(ONE[kind]) for kind in (SetType.PORT_NUMBERS, SetType.PORTS, SetType.RANGES, SetType.MARKS)
    ] == [
        "80",
        "10.0.0.1,tcp:80",
        "10.0.0.1,tcp:80,10.0.0.0/8",
        "10.0.0.1,tcp:80 skbmark 0x1/0xff",
    ]
