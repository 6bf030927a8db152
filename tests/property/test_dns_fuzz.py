"""Any bytes may arrive: the packet handler never raises, and its answers are messages about the question."""

import asyncio

import msgspec
import pytest
from dnslib import DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from dns.message import Malformed, finish, question_end, read_query, spans, without_opt
from tests.dns_bed import Bed, coredns_fixture, printable, question

pytestmark = pytest.mark.unit

NAMES = (
    "svc1.testns.svc.cluster.local.",
    "hdls1.testns.svc.cluster.local.",
    "_http._tcp.hdls1.testns.svc.cluster.local.",
    "external.testns.svc.cluster.local.",
    "nope.testns.svc.cluster.local.",
    "10-0-0-1.podns.pod.cluster.local.",
    "1.0.0.10.in-addr.arpa.",
    "cluster.local.",
    "example.org.",
    ".",
)
KINDS = ("A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "SOA", "NS", "MX", "ANY", "AXFR", "HTTPS")

queries = st.builds(
    question,
    st.sampled_from(NAMES),
    st.sampled_from(KINDS),
    edns=st.sampled_from((0, 100, 512, 1232, 4096)),
    do=st.booleans(),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(queries))
    for _ in range(draw(st.integers(0, 4))):
        action = draw(st.sampled_from(("set", "cut", "insert", "append")))
        at = draw(st.integers(0, max(0, len(packet) - 1)))
        if action == "set" and packet:
            packet[at] = draw(st.integers(0, 255))
        elif action == "cut":
            del packet[at : at + draw(st.integers(1, 8))]
        elif action == "insert":
            packet[at:at] = draw(st.binary(max_size=8))
        else:
            packet += draw(st.binary(max_size=16))
    return bytes(packet)


_BED: list[Bed] = []


def bed() -> Bed:
    if not _BED:
        _BED.append(coredns_fixture())
    return _BED[0]


def check(packet: bytes, stream: bool) -> None:
    dispatcher = bed().dispatcher
    fast = dispatcher.fast(packet, stream, False) if len(packet) >= 12 else None
    slow = asyncio.run(dispatcher.serve(packet, stream, ("192.0.2.1", 1)))
    assert bed().metrics.panics == 0
    for reply in (fast, slow):
        if reply is None:
            continue
        assert reply[:2] == packet[:2]
        assert reply[2] & 0x80
        if len(reply) > 12:
            end = question_end(packet)
            assert reply[12:end] == packet[12:end]
            if printable(packet[12:end]):
                DNSRecord.parse(reply)
        if not stream:
            query = read_query(packet, stream=stream, client=("", 0))
            assert len(reply) <= getattr(query, "limit", 512)
    if fast is not None:
        assert slow is not None
        assert fast[2:4] == slow[2:4]
        assert fast[6:8] == slow[6:8]


@settings(max_examples=300, deadline=None)
@given(mutated(), st.booleans())
def test_mutated_queries(packet: bytes, stream: bool) -> None:
    check(packet, stream)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_random_bytes(packet: bytes, stream: bool) -> None:
    check(packet, stream)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=12, max_size=120))
def test_an_upstreams_reply_is_read_or_refused(message: bytes) -> None:
    try:
        spans(message, question_end(message))
        without_opt(message)
    except Malformed:
        return


@settings(max_examples=200, deadline=None)
@given(queries, st.integers(12, 600))
def test_cutting_leaves_a_message_that_reads(packet: bytes, size: int) -> None:
    query = read_query(packet, stream=False, client=("", 0))
    assert query is not None
    assert not isinstance(query, bytes)
    reply = asyncio.run(bed().dispatcher.resolve(query)) if query.qtype != 252 else None
    if reply is None:
        return
    limit = max(size, 12 + len(query.question) + 11)
    cut = finish(msgspec.structs.replace(query, limit=limit), reply)
    assert len(cut) <= limit
    parsed = DNSRecord.parse(cut)
    assert parsed.header.tc or parsed.header.a == int.from_bytes(reply.message[6:8], "big")
