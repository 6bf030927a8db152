import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.kernel.conntrack_messages import (
    CTA_FILTER,
    CTA_ID,
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    Decoder,
    decode_stats,
    encode_delete,
    encode_dump,
)
from kubeproxy.kernel.netlink_messages import NLA_F_NESTED, PROTOCOL_NUMBER, attribute, attributes, netfilter_head
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

UDP = FlowMatch(protocol=Protocol.UDP)
STATUS = 3

CAPTURED = bytes.fromhex(
    "020000003400018014000180080001007f000001080002007f0000021c00028005000100110000000600020027120000"
    "06000300003500003400028014000180080001007f000002080002007f0000011c000280050001001100000006000200"
    "00350000060003002712000008000300000000080800080000000000"
    "08000c00c7995ef708000b0000000001080007000000001d"
)
"""An entry of Linux 6.18: 127.0.0.1:10002 → 127.0.0.2:53 by UDP, never answered."""


def tuple_(family: Family, number: int, source: str, source_port: int, destination: str, port: int) -> bytes:
    ip = attribute(CTA_IP_SRC[family], ip_address(source).packed)
    ip += attribute(CTA_IP_DST[family], ip_address(destination).packed)
    proto = attribute(CTA_PROTO_NUM, bytes([number]))
    proto += attribute(CTA_PROTO_SRC_PORT, source_port.to_bytes(2, "big"))
    proto += attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
    return attribute(CTA_TUPLE_IP | NLA_F_NESTED, ip) + attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, proto)


def entry(family: Family, flow: Flow, *, shuffled: bool = False) -> bytes:
    """Encode an entry as the kernel does, or with its attributes in another order."""
    number = PROTOCOL_NUMBER[flow.protocol]
    there = tuple_(family, number, flow.source, flow.source_port, flow.destination, flow.port)
    back = tuple_(family, number, flow.answerer, flow.answerer_port, flow.source, flow.source_port)
    parts = [attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, there), attribute(CTA_TUPLE_REPLY | NLA_F_NESTED, back)]
    if flow.zone:
        parts.append(attribute(CTA_ZONE, flow.zone.to_bytes(2, "big")))
    parts += [attribute(STATUS, struct.pack("!I", 8)), attribute(CTA_ID, b"\1\2\3\4")]
    return netfilter_head(family) + b"".join(reversed(parts) if shuffled else parts)


def plain(flow: Flow | None) -> dict[str, object]:
    assert flow is not None
    return {name: getattr(flow, name) for name in Flow.__struct_fields__ if name != "handle"}


FAMILIES = st.sampled_from(list(Family))
PORTS = st.integers(0, 65535)


@st.composite
def flows(draw: st.DrawFn) -> tuple[Family, Flow]:
    family = draw(FAMILIES)
    addresses = st.ip_addresses(v=family.value).map(str)
    return family, Flow(
        protocol=draw(st.sampled_from(list(Protocol))),
        source=draw(addresses),
        source_port=draw(PORTS),
        destination=draw(addresses),
        port=draw(PORTS),
        answerer=draw(addresses),
        answerer_port=draw(PORTS),
        zone=draw(st.sampled_from([0, 0, 1, 65535])),
    )


@given(flows(), st.booleans())
def test_entries_are_read_back_as_they_were_written(drawn: tuple[Family, Flow], shuffled: bool) -> None:
    family, flow = drawn
    decoder = Decoder(family, FlowMatch(protocol=flow.protocol))
    assert plain(decoder.decode(entry(family, flow, shuffled=shuffled))) == plain(flow)


@given(flows(), FAMILIES, st.sampled_from(list(Protocol)), st.frozensets(PORTS, max_size=2))
def test_what_does_not_match_is_passed_over(
    drawn: tuple[Family, Flow], family: Family, protocol: Protocol, ports: frozenset[int]
) -> None:
    written, flow = drawn
    match = FlowMatch(protocol=protocol, ports=ports)
    found = [Decoder(family, match).decode(entry(written, flow, shuffled=each)) for each in (False, True)]
    wanted = written is family and match.admits(flow)
    assert [each is not None for each in found] == [wanted, wanted]


@given(st.binary(max_size=200), st.integers(0, len(CAPTURED)), st.integers(0, len(CAPTURED)), FAMILIES)
def test_nonsense_is_no_flow(noise: bytes, start: int, end: int, family: Family) -> None:
    body = CAPTURED[:start] + noise + CAPTURED[end:]
    flow = Decoder(family, UDP).decode(body)
    assert flow is None or flow.protocol is Protocol.UDP
    assert Decoder(Family.V6, UDP).decode(CAPTURED) is None


def test_a_real_entry() -> None:
    flow = Decoder(Family.V4, UDP).decode(CAPTURED)
    assert str(flow) == "UDP 127.0.0.1:10002 → 127.0.0.2:53, not translated"


def test_an_entry_is_deleted_by_tuple_zone_and_number() -> None:
    flow = Flow(
        protocol=Protocol.UDP,
        source="fd00::1",
        source_port=1,
        destination="fd00::2",
        port=53,
        answerer="fd00::3",
        answerer_port=53,
        zone=7,
    )
    body = entry(Family.V6, flow)
    found = Decoder(Family.V6, UDP).decode(body)
    assert found is not None
    message = encode_delete(Family.V6, found)
    assert message[:4] == body[:4]
    kept = dict(attributes(message[4:]))
    assert set(kept) == {CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID}
    assert all(kept[kind] == dict(attributes(body[4:]))[kind] for kind in kept)


@pytest.mark.parametrize(
    ("match", "flags"),
    [
        (UDP, 1 << 3),
        (FlowMatch(protocol=Protocol.UDP, ports=frozenset({53})), 1 << 3 | 1 << 5),
        (FlowMatch(protocol=Protocol.UDP, ports=frozenset({53, 54})), 1 << 3),
        (FlowMatch(protocol=Protocol.TCP, source="10.0.0.1", destination="10.0.0.2"), 1 << 3),
    ],
)
def test_the_kernel_is_asked_to_filter_by_what_it_can(match: FlowMatch, flags: int) -> None:
    fields = dict(attributes(encode_dump(Family.V4, match)[4:]))
    assert struct.unpack("=I", dict(attributes(fields[CTA_FILTER]))[1]) == (flags,)


def test_the_size_of_the_table() -> None:
    body = netfilter_head(None) + attribute(1, struct.pack("!I", 5)) + attribute(2, struct.pack("!I", 262144))
    assert decode_stats(body) == (5, 262144)
    assert decode_stats(netfilter_head(None)) == (0, 0)
