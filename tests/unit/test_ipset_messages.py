import struct

import pytest

from kubeproxy.kernel.ipset_messages import (
    ATTR_ADT,
    BATCH,
    Entry,
    Member,
    SetType,
    decode_members,
    encode_create,
    encode_entries,
)
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.kernel.netlink_messages import attribute, attributes, message
from kubeproxy.kernel.sysctl import FakeSysctls, ProcSysctls, SysctlRefused
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

V4: list[Entry] = [("10.244.0.1", Protocol.TCP, 80), ("10.244.255.254", Protocol.UDP, 65535)]
V6: list[Entry] = [("fd00::1", Protocol.SCTP, 53), ("2001:db8::ffff", Protocol.TCP, 1)]


@pytest.mark.parametrize(
    ("family", "entries"),
    [
        (Family.V4, V4),
        (Family.V6, V6),
        (Family.V4, ["10.96.0.1", "0.0.0.0", "255.255.255.255"]),
        (Family.V6, ["fd00::1", "::ffff:1:2"]),
    ],
)
def test_entries_are_read_back_as_they_were_written(family: Family, entries: list[Member]) -> None:
    assert list(decode_members([encode_entries(family, "KUBE-LOOP-BACK", entries)])) == entries


def test_a_full_batch_fits_an_attribute() -> None:
    entries: list[Entry] = [(f"fd00::{i:x}", Protocol.TCP, 80) for i in range(1, BATCH + 1)]
    body = encode_entries(Family.V6, "KUBE-6-LOOP-BACK", entries)
    (batch,) = (value for kind, value in attributes(body[4:]) if kind == ATTR_ADT)
    assert len(batch) < 65536 - 4
    assert sum(1 for _ in attributes(batch)) == BATCH


def test_attributes_are_padded_and_decoded() -> None:
    data = attribute(1, b"abc") + attribute(0x8000 | 2, b"") + attribute(3, b"12345678")
    assert len(data) % 4 == 0
    assert list(attributes(data)) == [(1, b"abc"), (2, b""), (3, b"12345678")]


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x03\x00\x01\x00", b"\xff\x00\x01\x00abc"])
def test_attributes_that_are_cut_short_end_the_list(data: bytes) -> None:
    assert list(attributes(data)) == []


def test_a_message_states_its_length() -> None:
    assert struct.unpack_from("=I", message(0x602, 5, 1, b"x" * 7))[0] == 23


def test_a_create_message_names_the_type() -> None:
    assert b"hash:ip,port,ip\0" in encode_create(Family.V4, "KUBE-LOOP-BACK", SetType.ENDPOINTS, 6)
    assert b"hash:ip\0" in encode_create(Family.V6, "KUBE-6-CLUSTER-IPS", SetType.ADDRESSES, 4)
    assert b"hash:ip\0" in encode_create(Family.V4, "KUBE-SEP-X", SetType.CLIENTS, 4)


def test_errors_say_what_they_are_about() -> None:
    assert str(NetlinkError(17, "ipset KUBE-LOOP-BACK")) == "ipset KUBE-LOOP-BACK: File exists"
    assert str(NetlinkError(4100, "ipset X")) == "ipset X: error 4100"


def test_a_parameter_that_does_not_exist_reads_as_nothing_and_cannot_be_set() -> None:
    real = ProcSysctls()
    assert real.read("net/ipv4/no_such_thing") == ""
    with pytest.raises(SysctlRefused, match="net/ipv4/no_such_thing=1"):
        real.ensure("net/ipv4/no_such_thing", "1")


def test_the_fake_remembers() -> None:
    fake = FakeSysctls({"a": "1"})
    fake.ensure("b", "2")
    assert (fake.read("a"), fake.read("b"), fake.read("c")) == ("1", "2", "")
