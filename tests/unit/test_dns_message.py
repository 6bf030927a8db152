"""Packets by the byte: header checks, EDNS, truncation, and what CoreDNS answers to odd ones (reference 1.9)."""

import asyncio

import pytest
from dnslib import DNSRecord

from dns.answers import AnswerTable
from dns.message import Malformed, Query, question_end, read_query, skip_name, without_opt
from tests.dns_bed import Bed, lines, piece, question, service

pytestmark = pytest.mark.unit

NAME = "svc1.testns.svc.cluster.local."


def serve(packet: bytes, stream: bool = False) -> bytes | None:
    bed = Bed("ttl 5")
    bed.add(service("svc1", "10.0.0.1"))
    bed.sync()
    return asyncio.run(bed.dispatcher.serve(packet, stream, ("192.0.2.1", 53)))


def changed(at: int, *values: int) -> bytes:
    packet = bytearray(question(NAME))
    packet[at : at + len(values)] = bytes(values)
    return bytes(packet)


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, changed(2, 0x81)])
def test_what_gets_no_answer(packet: bytes) -> None:
    assert serve(packet) is None


@pytest.mark.parametrize(
    ("packet", "rcode", "size"),
    [
        (changed(2, 0x21), 4, 12),  # opcode 4, NOTIFY
        (changed(2, 0x79), 4, 12),  # opcode 15
        (changed(4, 0, 2), 1, 12),  # two questions
        (changed(4, 0, 0), 1, 12),
        (changed(6, 0, 2), 1, 12),
        (changed(10, 0, 3), 1, 12),
        (question(NAME)[:12], 1, 12),
        (question(NAME)[:-1], 1, 12),
        (changed(12, 0xC0, 0x0C), 1, 12),  # a pointer to itself
        (changed(12, 0x40), 1, 12),
    ],
)
def test_what_gets_a_bare_error(packet: bytes, rcode: int, size: int) -> None:
    reply = serve(packet)
    assert reply is not None
    assert (reply[:2], reply[3] & 15, len(reply)) == (packet[:2], rcode, size)
    assert reply[2] & 0x80


def test_tolerated_oddities() -> None:
    for packet in (
        question(NAME) + b"junk",
        changed(10, 0, 1),  # an additional record that is not there
        changed(2, 0x07),  # AA and TC in a query
        changed(3, 0x70),  # Z, AD, CD
    ):
        reply = serve(packet)
        assert reply is not None
        assert lines(DNSRecord.parse(reply).rr) == [f"{NAME} a 10.0.0.1"]


def test_flags_are_copied_or_cleared() -> None:
    reply = serve(changed(2, 0x07, 0x70))
    assert reply is not None
    assert reply[2:4] == b"\x85\x10"  # QR AA RD, CD


@pytest.mark.parametrize("kind", [251, 252])
def test_transfers_are_refused(kind: int) -> None:
    packet = bytearray(question(NAME))
    packet[-4:-2] = kind.to_bytes(2, "big")
    reply = serve(bytes(packet))
    assert reply is not None
    assert reply[3] & 15 == 5


def test_other_classes_are_refused() -> None:
    reply = serve(question(NAME)[:-1] + b"\3")
    assert reply is not None
    assert reply[3] & 15 == 5


def test_edns_is_answered_with_edns() -> None:
    plain, edns, do = (serve(packet) for packet in (
        question(NAME), question(NAME, edns=100), question(NAME, edns=4096, do=True),
    ))  # fmt: skip
    assert plain is not None
    assert edns is not None
    assert do is not None
    assert DNSRecord.parse(plain).ar == []
    assert DNSRecord.parse(edns).ar[0].edns_len == 1232
    assert do[-4] & 0x80


def test_other_edns_versions_are_refused() -> None:
    packet = bytearray(question(NAME, edns=1232))
    packet[-5] = 1
    reply = serve(bytes(packet))
    assert reply is not None
    assert reply[3] & 15 == 0
    assert reply[-6] == 1  # the upper bits of BADVERS (16)


def test_two_opts_are_malformed() -> None:
    packet = bytearray(question(NAME, edns=1232))
    packet += packet[-11:]
    packet[11] = 2
    reply = serve(bytes(packet))
    assert reply is not None
    assert reply[3] & 15 == 1


@pytest.fixture(scope="module")
def big() -> Bed:
    bed = Bed("ttl 30")
    addresses = [f"10.9.0.{number}" for number in range(1, 101)]
    bed.add(service("hdls40", headless=True), piece("hdls40", *addresses[:40]))
    bed.add(service("hdlsbig", headless=True), piece("hdlsbig", *addresses))
    bed.add(service("hdls7", headless=True), piece("hdls7", *addresses[:7]))
    bed.sync()
    return bed


@pytest.mark.parametrize(
    ("name", "edns", "records", "cut"),
    [
        ("hdls40", 0, 28, True),
        ("hdls40", 512, 28, True),
        ("hdls40", 1232, 40, False),
        ("hdlsbig", 1232, 73, True),
        ("hdlsbig", 4096, 100, False),
    ],
)
def test_truncation(big: Bed, name: str, edns: int, records: int, cut: bool) -> None:
    packet = question(f"{name}.testns.svc.cluster.local.", edns=edns)
    reply = big.ask_raw(packet)
    parsed = DNSRecord.parse(reply)
    assert (len(parsed.rr), bool(parsed.header.tc)) == (records, cut)
    assert len(reply) <= max(edns, 512)
    whole = DNSRecord.parse(big.ask_raw(packet, stream=True))
    assert (len(whole.rr), whole.header.tc) == (100 if name == "hdlsbig" else 40, 0)


def test_lost_additionals_are_no_truncation(big: Bed) -> None:
    reply = big.ask_raw(question("hdls7.testns.svc.cluster.local.", "SRV"))
    parsed = DNSRecord.parse(reply)
    assert len(reply) <= 512
    assert (len(parsed.rr), len(parsed.ar), parsed.header.tc) == (7, 0, 0)


def test_rotation_gives_every_address_the_first_place() -> None:
    bed = Bed("ttl 30", ".:53 {\n loadbalance\n kubernetes cluster.local {\n OPTIONS\n }\n}")
    bed.add(service("hdls", headless=True), piece("hdls", "10.0.0.1", "10.0.0.2", "10.0.0.3"))
    packet = question("hdls.testns.svc.cluster.local.")
    replies = [DNSRecord.parse(bed.dispatcher.fast(packet, False, False) or b"") for _ in range(6)]
    assert {str(reply.rr[0].rdata) for reply in replies} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert all(len(lines(reply.rr)) == 3 for reply in replies)


def test_names_in_packets() -> None:
    message = b"\0" * 12 + b"\1a\0" + b"\xc0\x0c" + b"\3abc"
    assert skip_name(message, 12) == 15
    assert skip_name(message, 15) == 17
    for at in (17, 21):
        with pytest.raises(Malformed):
            skip_name(message, at)
    with pytest.raises(Malformed):
        skip_name(b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 3 + b"\0", 0)
    with pytest.raises(Malformed):
        question_end(b"\0" * 12 + b"\xc0\x00\0\1\0\1")


def test_an_opt_is_taken_off() -> None:
    packet = question(NAME, edns=1232)
    assert without_opt(packet) == question(NAME)
    assert without_opt(packet + b"junk") == question(NAME)


def test_a_clean_query_carries_nothing_but_the_question() -> None:
    query = read_query(question(NAME, edns=4096, do=True) + b"junk", stream=False, client=("", 0))
    assert isinstance(query, Query)
    assert len(query.clean()) == len(question(NAME)) + 11
    assert DNSRecord.parse(query.clean()).q.qname == NAME


def test_the_table_refuses_what_only_looks_like_a_name() -> None:
    table = AnswerTable((b"\7cluster\5local\0",))
    table.set_soa(1, 5)
    table.denies = True
    good = question("x.cluster.local.")
    assert table.respond(good) is not None
    # The suffix is there, but as the middle of a label.
    odd = good[:12] + b"\x0fx\7cluster\5local\0" + good[-4:]
    assert table.respond(odd) is None
    assert table.respond(good[:12] + b"\x50" + good[13:]) is None
