"""The userspace forwarder, packet by packet, without a kernel."""

import errno
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest

from flannel.backends.forwarder import Forwarder, Table
from flannel.backends.packets import MAX_CACHED, RouteTable, count_down, icmp_error

pytestmark = pytest.mark.unit


def checksum(data: bytes) -> int:
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def packet(source: str, destination: str, *, ttl: int = 64, protocol: int = 17, fragment: int = 0) -> bytearray:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0x1234, fragment, ttl, protocol, 0)
    head += IPv4Address(source).packed + IPv4Address(destination).packed
    return bytearray(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + b"payload!")


@pytest.mark.parametrize("ttl", [2, 3, 64, 128, 255])
@pytest.mark.parametrize("source", ["10.244.1.2", "0.0.0.0", "255.255.255.255", "10.244.200.99"])
def test_the_checksum_follows_the_ttl(ttl, source):
    counted = packet(source, "10.244.2.2", ttl=ttl)
    assert count_down(counted)
    assert counted[8] == ttl - 1
    assert checksum(counted[:20]) in (0, 0xFFFF)


def test_a_ttl_that_ends_here_is_left_alone():
    last = packet("10.244.1.2", "10.244.2.2", ttl=1)
    before = bytes(last)
    assert not count_down(last)
    assert last == before


def test_the_longest_prefix_wins_and_the_cache_is_bounded():
    table = RouteTable(
        [
            (IPv4Network("10.244.0.0/16"), ("a", 1)),
            (IPv4Network("10.244.2.0/24"), ("b", 1)),
            (IPv4Network("10.244.2.128/25"), ("c", 1)),
        ]
    )
    find = lambda text: table.find(IPv4Address(text).packed)  # noqa: E731
    assert [find(text) for text in ("10.244.9.1", "10.244.2.1", "10.244.2.129", "10.245.0.1")] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
        None,
    ]
    for number in range(MAX_CACHED + 10):
        table.find(number.to_bytes(4, "big"))
    assert len(table.hops) <= MAX_CACHED


class Rig:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.forwarder = Forwarder(
            lambda data: self.written.append(bytes(data)), lambda data, hop: self.sent.append((bytes(data), hop))
        )
        self.forwarder.load(
            Table(
                network="10.244.0.0/16",
                address="10.244.1.0",
                port=8285,
                routes=(("10.244.2.0/24", "192.168.56.12"), ("10.244.3.0/24", "192.168.56.13")),
            )
        )


def test_outbound_goes_raw_to_the_node_of_the_subnet():
    rig = Rig()
    rig.forwarder.outbound(packet("10.244.1.2", "10.244.2.2"))
    assert rig.sent == [(bytes(packet("10.244.1.2", "10.244.2.2", ttl=63)), ("192.168.56.12", 8285))]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (packet("10.244.1.2", "10.244.99.2"), (3, 0)),
        (packet("10.244.1.2", "10.244.2.2", ttl=1), (11, 0)),
    ],
)
def test_what_cannot_be_sent_is_answered_by_icmp(given, kind):
    rig = Rig()
    original = bytes(given)
    rig.forwarder.outbound(given)
    assert rig.sent == []
    (answer,) = rig.written
    assert checksum(answer[:20]) == 0 == checksum(answer[20:])
    assert (answer[8], answer[9], tuple(answer[20:22])) == (8, 1, kind)
    assert answer[12:20] == IPv4Address("10.244.1.0").packed + IPv4Address("10.244.1.2").packed
    assert answer[28:] == original[:28]
    assert struct.unpack("!H", answer[2:4])[0] == len(answer)


def test_no_icmp_about_icmp_nor_about_later_fragments():
    for silent in (packet("10.244.1.2", "10.9.9.9", protocol=1), packet("10.244.1.2", "10.9.9.9", fragment=185)):
        assert icmp_error((3, 0), silent, IPv4Address("10.244.1.0")) is None


@pytest.mark.parametrize(
    ("source", "sender", "passes"),
    [
        ("10.244.2.2", "192.168.56.12", True),
        ("192.168.56.12", "192.168.56.12", True),
        ("203.0.113.9", "192.168.56.13", True),
        ("10.244.3.2", "192.168.56.12", False),
        ("10.244.1.2", "192.168.56.12", False),
        ("10.244.99.2", "192.168.56.12", False),
        ("10.244.2.2", "192.168.56.99", False),
        ("203.0.113.9", "192.168.56.99", False),
    ],
)
def test_a_sender_must_own_the_source(source, sender, passes):
    rig = Rig()
    rig.forwarder.inbound(packet(source, "10.244.1.2"), sender)
    assert [bytes(packet(source, "10.244.1.2", ttl=63))] * passes == rig.written
    assert rig.forwarder.dropped == ({} if passes else {"sender does not own the source": 1})


@pytest.mark.parametrize("rubbish", [b"", b"\x45", b"\x60" + bytes(60), bytes(19)])
def test_rubbish_is_dropped_on_either_side(rubbish):
    rig = Rig()
    rig.forwarder.outbound(bytearray(rubbish))
    rig.forwarder.inbound(bytearray(rubbish), "192.168.56.12")
    assert (rig.sent, rig.written, rig.forwarder.dropped) == ([], [], {"not IPv4": 1})


def test_a_full_buffer_drops_and_a_lost_device_ends():
    def fail(number):
        def call(*_):
            raise OSError(number, errno.errorcode[number])

        return call

    table = Table(
        network="10.244.0.0/16", address="10.244.1.0", port=1, routes=(("10.244.2.0/24", "192.168.56.12"),)
    )
    forwarder = Forwarder(fail(errno.EINVAL), fail(errno.EAGAIN))
    forwarder.load(table)
    forwarder.outbound(packet("10.244.1.2", "10.244.2.2"))
    forwarder.inbound(packet("10.244.2.2", "10.244.1.2"), "192.168.56.12")
    assert forwarder.dropped == {"socket buffer full": 1, "TUN: EINVAL": 1}
    gone = Forwarder(fail(errno.EBADFD), fail(errno.EAGAIN))
    gone.load(table)
    with pytest.raises(OSError, match="EBADFD"):
        gone.inbound(packet("10.244.2.2", "10.244.1.2"), "192.168.56.12")
