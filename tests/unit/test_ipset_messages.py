import struct

import pytest
from pyroute2.netlink.nfnetlink.ipset import ipset_msg

from kubeproxy.kernel.ipset_listing import decode_members, entries_at_once
from kubeproxy.kernel.ipset_messages import (
    ATTR_ADT,
    ATTR_LINENO,
    BATCH,
    DATA_IP,
    DATA_IP2,
    DATA_LINENO,
    FULL,
    Entry,
    Member,
    SetType,
    decode_refusal,
    encode_create,
    encode_entries,
)
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.kernel.netlink_messages import (
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    PROTOCOL_NUMBER,
    attribute,
    attributes,
    message,
)
from kubeproxy.kernel.sysctl import FakeSysctls, ProcSysctls, SysctlRefused
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

V4: list[Entry] = [("10.244.0.1", Protocol.TCP, 80), ("10.244.255.254", Protocol.UDP, 65535)]
V6: list[Entry] = [("fd00::1", Protocol.SCTP, 53), ("2001:db8::ffff", Protocol.TCP, 1)]


PORTED = {Family.V4: V4, Family.V6: V6}
ENTRIES: list[tuple[Family, SetType, list[Member]]] = [
    *((family, kind, [*PORTED[family]]) for family in Family for kind in (SetType.ENDPOINTS, SetType.PORTS)),
    *((family, SetType.MARKS, [(*each, 0x6B000001, 0xFFFFBFFF) for each in PORTED[family]]) for family in Family),
    (Family.V4, SetType.RANGES, [(*V4[0], "10.0.0.0/8"), (*V4[1], "1.2.3.4/32"), (*V4[1], "0.0.0.0/1")]),
    (Family.V6, SetType.RANGES, [(*V6[0], "fd00::/8"), (*V6[1], "fd00::1/128")]),
    (Family.V4, SetType.ADDRESSES, ["10.96.0.1", "0.0.0.0", "255.255.255.255"]),
    (Family.V6, SetType.ADDRESSES, ["fd00::1", "::ffff:1:2"]),
    (Family.V4, SetType.PORT_NUMBERS, [0, 80, 65535]),
]


@pytest.mark.parametrize(("family", "kind", "entries"), ENTRIES)
def test_entries_are_read_back_as_they_were_written(family: Family, kind: SetType, entries: list[Member]) -> None:
    assert list(decode_members([encode_entries(family, "KUBE-X", kind, entries)], kind)) == entries


@pytest.mark.parametrize(("family", "kind", "entries"), ENTRIES)
def test_entries_are_those_that_another_encoder_makes(
    family: Family, kind: SetType, entries: list[Member]
) -> None:
    (batch,) = (v for k, v in attributes(encode_entries(family, "X", kind, entries)[4:]) if k == ATTR_ADT)
    for (_, ours), entry in zip(attributes(batch), entries, strict=True):
        assert flat(ours) == flat(pyroute2_entry(family, kind, entry))


def pyroute2_entry(family: Family, kind: SetType, entry: Member) -> bytes:
    """Return pyroute2's encoding of an entry: what is in IPSET_ATTR_DATA."""
    fields = entry if isinstance(entry, tuple) else (entry,)
    name = "IPSET_ATTR_IPADDR_IPV4" if family is Family.V4 else "IPSET_ATTR_IPADDR_IPV6"

    def address(key: str, text: object) -> list[object]:
        return [key, {"attrs": [[name, text]]}]

    attrs: list[list[object]] = []
    if kind is SetType.PORT_NUMBERS:
        attrs += [["IPSET_ATTR_PORT", fields[0]]]
    else:
        attrs += [address("IPSET_ATTR_IP", fields[0])]
    if len(fields) > 2:
        assert isinstance(fields[1], Protocol)
        attrs += [["IPSET_ATTR_PORT", fields[2]], ["IPSET_ATTR_PROTO", PROTOCOL_NUMBER[fields[1]]]]
    if kind is SetType.ENDPOINTS:
        attrs += [address("IPSET_ATTR_IP2", fields[0])]
    if kind is SetType.RANGES:
        network, _, length = str(fields[3]).partition("/")
        attrs += [address("IPSET_ATTR_IP2", network), ["IPSET_ATTR_CIDR2", int(length)]]
    if kind is SetType.MARKS:
        attrs += [["IPSET_ATTR_SKBMARK", (fields[3], fields[4])]]
    encoded = ipset_msg.ipset_generic.adt_data()
    encoded["attrs"] = attrs
    encoded.encode()
    return bytes(encoded.data)[4:]


def flat(data: bytes) -> set[tuple[int, ...] | bytes]:
    """Return an entry's attributes as a set, whatever their order, without the line number."""
    return {value_of(kind, value) for kind, value in attributes(data) if kind != DATA_LINENO}


def value_of(kind: int, value: bytes) -> bytes:
    inner = b"".join(v for _, v in attributes(value)) if kind in (DATA_IP, DATA_IP2) else value
    return bytes([kind]) + inner


def test_a_full_batch_fits_an_attribute() -> None:
    entries: list[Member] = [(f"fd00::{i:x}", Protocol.TCP, 80, "fd00::/64") for i in range(1, BATCH + 1)]
    body = encode_entries(Family.V6, "KUBE-6-SOURCES", SetType.RANGES, entries)
    (batch,) = (value for kind, value in attributes(body[4:]) if kind == ATTR_ADT)
    assert len(batch) < 65536 - 4
    assert sum(1 for _ in attributes(batch)) == BATCH


def test_a_range_of_everything_cannot_be_stored() -> None:
    with pytest.raises(ValueError, match="cannot be stored"):
        encode_entries(Family.V4, "X", SetType.RANGES, [("10.0.0.1", Protocol.TCP, 80, "0.0.0.0/0")])


def test_a_refusal_names_the_entry() -> None:
    head = struct.pack("=iIHHII", -FULL, 0, 0, 0, 0, 0)
    back = b"\2\0\0\0" + attribute(ATTR_LINENO, struct.pack("=I", 7))
    assert decode_refusal(head + back) == 7
    assert decode_refusal(head) == 0


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


# What Linux 6.18 writes of one entry each, with the kind of set and the entry.
V6_IP = "18 00 01 80 14 00 02 00 fd 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01"
V6_IP2 = "18 00 14 80 14 00 02 00 fd 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01"
V4_IP, V4_IP2 = "0c 00 01 80 08 00 01 00 0a 00 00 01", "0c 00 14 80 08 00 01 00 0a 00 00 01"
TCP_80 = "06 00 04 40 00 50 00 00 05 00 07 00 06 00 00 00"
MARK = "0c 00 1b 40 6b 00 00 01 ff ff ff ff"
CAPTURED: list[tuple[SetType, str, Member]] = [
    (SetType.ADDRESSES, V4_IP, "10.0.0.1"),
    (SetType.ADDRESSES, V6_IP, "fd00::1"),
    (SetType.PORTS, V4_IP + TCP_80, ("10.0.0.1", Protocol.TCP, 80)),
    (SetType.PORTS, V6_IP + TCP_80, ("fd00::1", Protocol.TCP, 80)),
    (SetType.ENDPOINTS, V4_IP + V4_IP2 + TCP_80, ("10.0.0.1", Protocol.TCP, 80)),
    (SetType.ENDPOINTS, V6_IP + V6_IP2 + TCP_80, ("fd00::1", Protocol.TCP, 80)),
    (SetType.MARKS, V4_IP + TCP_80 + MARK, ("10.0.0.1", Protocol.TCP, 80, 0x6B000001, 0xFFFFFFFF)),
    (SetType.MARKS, V6_IP + TCP_80 + MARK, ("fd00::1", Protocol.TCP, 80, 0x6B000001, 0xFFFFFFFF)),
]


def listing(*rows: bytes) -> bytes:
    return bytes(4) + attribute(
        ATTR_ADT | NLA_F_NESTED, b"".join(attribute(7 | NLA_F_NESTED, row) for row in rows)
    )


@pytest.mark.parametrize(("kind", "captured", "entry"), CAPTURED)
def test_rows_as_the_kernel_writes_them_are_read_at_one_go(kind: SetType, captured: str, entry: Member) -> None:
    row = bytes.fromhex(captured)
    (rows,) = (value for _, value in attributes(listing(row, row)[4:]))
    assert entries_at_once(rows, kind) == [entry, entry]
    # One that looks otherwise (it has a timeout) has all of them read one by one.
    other = row + attribute(6 | NLA_F_NET_BYTEORDER, bytes(4))
    (rows,) = (value for _, value in attributes(listing(row, other)[4:]))
    assert entries_at_once(rows, kind) == []
    assert list(decode_members([listing(row, other), listing(row)], kind)) == [entry] * 3


@pytest.mark.parametrize("kind", [SetType.PORTS, SetType.ENDPOINTS, SetType.MARKS])
def test_entries_that_ours_never_are_are_passed_over(kind: SetType) -> None:
    captured = next(text for each, text, _ in CAPTURED if each is kind)
    icmp = bytes.fromhex(captured.replace("07 00 06", "07 00 01"))
    assert list(decode_members([listing(icmp, icmp)], kind)) == []
    if kind is SetType.ENDPOINTS:
        two = bytes.fromhex(V4_IP + V4_IP2.replace("0a 00 00 01", "0a 00 00 02") + TCP_80)
        assert list(decode_members([listing(two)], kind)) == []
