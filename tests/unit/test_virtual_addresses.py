"""Virtual addresses: our bytes against pyroute2's, and the model's rules."""

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_virtual_addresses import FakeDevice, FakeVirtualAddresses
from kubeproxy.kernel.virtual_addresses import Addresses, AddressesRefused, VirtualAddresses
from kubeproxy.kernel.virtual_addresses_messages import (
    ROUTE_PROTOCOL,
    Device,
    decode_addresses,
    decode_device,
    decode_route,
    encode_address,
    encode_new_device,
    encode_route,
    encode_up,
    encode_without_link_local,
)
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.unit

VIP = {Family.V4: "10.96.0.1", Family.V6: "fd00:96::1"}
NODE = {Family.V4: "192.0.2.1", Family.V6: "2001:db8::1"}


def encoded(message: rtmsg | ifaddrmsg | ifinfmsg) -> bytes:
    message.encode()
    return bytes(message.data)[16:]


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("with_source", [False, True])
def test_a_route_is_what_another_encoder_makes(family: Family, with_source: bool) -> None:
    source = NODE[family] if with_source else ""
    other = rtmsg()
    other["family"] = 2 if family is Family.V4 else 10
    other["dst_len"] = family.host_bits
    other["table"], other["proto"], other["type"] = 255, ROUTE_PROTOCOL, 2
    other["scope"] = 254 if family is Family.V4 else 0
    other["attrs"] = [["RTA_DST", VIP[family]], ["RTA_OIF", 9], *([["RTA_PREFSRC", source]] if source else [])]
    ours = encode_route(family, VIP[family], 9, source)
    assert ours == encoded(other)
    assert decode_route(family, ours, 9) == (VIP[family], source)
    assert decode_route(family, ours, 8) is None, "it is on another device"
    theirs = bytearray(ours)
    theirs[5] = 2
    assert decode_route(family, bytes(theirs), 9) is None, "the kernel made it"


@pytest.mark.parametrize("family", list(Family))
def test_an_address_is_what_another_encoder_makes(family: Family) -> None:
    other = ifaddrmsg()
    other["family"], other["prefixlen"], other["index"] = (2 if family is Family.V4 else 10), family.host_bits, 9
    other["attrs"] = [["IFA_LOCAL", VIP[family]]]
    ours = encode_address(family, VIP[family], 9)
    assert ours == encoded(other)
    assert list(decode_addresses(family, ours, 9)) == [VIP[family]]
    assert list(decode_addresses(family, ours, 8)) == []


def test_link_local_addresses_are_nobodys() -> None:
    assert list(decode_addresses(Family.V6, encode_address(Family.V6, "fe80::1", 9), 9)) == []


def test_devices_are_what_another_encoder_makes() -> None:
    other = ifinfmsg()
    other["attrs"] = [["IFLA_IFNAME", "kube-ipvs0"], ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "dummy"]]}]]
    assert without_flags(encode_new_device("kube-ipvs0", "dummy")) == without_flags(encoded(other))
    assert decode_device(encode_new_device("kube-ipvs0", "dummy")) == Device(index=0, kind="dummy")
    other = ifinfmsg()
    other["index"], other["flags"], other["change"] = 9, 1, 1
    assert encode_up(9) == encoded(other)
    other = ifinfmsg()
    other["index"] = 9
    mode = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}
    other["attrs"] = [["IFLA_AF_SPEC", {"attrs": [["AF_INET6", mode]]}]]
    assert without_flags(encode_without_link_local(9)) == without_flags(encoded(other))


def without_flags(data: bytes) -> bytes:
    """pyroute2 does not say that an attribute is nested, which old kernels do not ask for either."""
    return (
        data.replace(b"\x12\x80", b"\x12\x00").replace(b"\x1a\x80", b"\x1a\x00").replace(b"\x0a\x80", b"\x0a\x00")
    )


def test_the_model_and_the_real_ones_are_the_same_seam() -> None:
    seam: list[Addresses] = [FakeVirtualAddresses(Family.V4), VirtualAddresses(Family.V4)]
    assert len(seam) == 2


def test_the_last_family_removes_the_device() -> None:
    device = FakeDevice()
    both = {family: FakeVirtualAddresses(family, device) for family in Family}
    for family, each in both.items():
        each.ensure_device()
        each.add([VIP[family]], NODE[family])
    assert both[Family.V6].held() == {VIP[Family.V6]: NODE[Family.V6]}
    both[Family.V4].remove([VIP[Family.V4]])
    assert not both[Family.V4].remove_device()
    both[Family.V6].remove([VIP[Family.V6]])
    assert both[Family.V6].remove_device()
    assert both[Family.V4].device() is None
    with pytest.raises(KernelError, match="is gone"):
        both[Family.V4].add(["10.96.0.2"])


def test_the_model_refuses_by_address_and_fails_when_told_to() -> None:
    fake = FakeVirtualAddresses(Family.V4, FakeDevice("dummy"))
    fake.refused["10.96.0.2"] = "so there"
    fake.failures.append(KernelError("once"))
    with pytest.raises(KernelError, match="once"):
        fake.add(["10.96.0.1"])
    with pytest.raises(AddressesRefused, match=r"virtual address 10\.96\.0\.2: so there") as caught:
        fake.add(["10.96.0.1", "10.96.0.2"])
    assert caught.value.refused == {"10.96.0.2": "so there"}
    assert fake.local() == {"10.96.0.1"}
    fake.sources = {"192.0.2.1"}
    with pytest.raises(AddressesRefused):
        fake.set_source(["10.96.0.1"], "192.0.2.9")
    fake.on.kind = "veth"
    with pytest.raises(KernelError, match="another kind of device"):
        fake.ensure_device()
    assert not fake.remove_device()
