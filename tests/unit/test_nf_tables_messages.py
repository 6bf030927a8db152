"""Messages of nf_tables, against what the kernel said of nft's own tables (tests/captures/nft.json)."""

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from kubeproxy.kernel.netlink_messages import (
    NLM_F_ACK,
    attribute,
    attribute_map,
    attributes,
    messages,
    netfilter_head,
)
from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables import fields
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.batch import TooLarge, datagram, encode, transactions
from kubeproxy.kernel.nf_tables.element_messages import MOST_BYTES, decode_elements, element_at, encode_elements
from kubeproxy.kernel.nf_tables.numbers import ElementList, Message, Set
from kubeproxy.kernel.nf_tables.object_messages import (
    Undecodable,
    decode_chain,
    decode_generation,
    decode_rule,
    decode_set,
    encode_set,
    table_of,
)
from kubeproxy.kernel.nf_tables.refusals import Refusal, decode_refusal, explained, refused_element
from kubeproxy.kernel.nf_tables.types import Field
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

CAPTURE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "captures/nft.json").read_text())
TABLE = "kube-proxy"
PLACE = (Field.ADDRESS, Field.PROTOCOL, Field.PORT)
FIRST = {Family.V4: "10.96.0.1", Family.V6: "fd00:96::1"}
SECOND = {Family.V4: "10.96.0.2", Family.V6: "fd00:96::2"}
NETWORK = {Family.V4: ("10.0.0.0", "10.255.255.255"), Family.V6: ("fd00::", f"fdff:{':'.join(['ffff'] * 7)}")}
SETS = (
    t.SetSpec(name="service-ips", key=PLACE, data=(Field.CLASS,), comment="classes"),
    t.SetSpec(name="picks", key=(Field.CLASS,), data=t.VERDICTS),
    t.SetSpec(name="endpoints", key=(*PLACE, Field.SLOT), data=(Field.ADDRESS, Field.PORT)),
    t.SetSpec(name="firewall-sources", key=(*PLACE, Field.SOURCE), interval=True),
    t.SetSpec(name="cluster-ips", key=(Field.ADDRESS,), size=10),
    t.SetSpec(name="marks", key=PLACE, data=(Field.MARK,)),
    t.SetSpec(name="affinity", key=(Field.SOURCE, *PLACE), data=(Field.CLASS,), dynamic=True, size=1000),
)


def captured(family: Family, name: str) -> list[t.Element]:
    bodies = CAPTURE[family.label]["elements"][name]
    return [element for body in bodies for element in decode_elements(bytes.fromhex(body))]


def elements(family: Family) -> dict[str, list[t.Element]]:
    """Return what nft was told to put into the sets."""
    first = fields.place(FIRST[family], Protocol.TCP, 80)
    low, high = (first + fields.packed_address(each) for each in NETWORK[family])
    return {
        "service-ips": [
            t.Element(first, fields.number(0x6B000003), "a/b:c"),
            t.Element(fields.place(SECOND[family], Protocol.UDP, 53), fields.number(0x6B000004)),
        ],
        "picks": [
            t.Element(fields.number(0x6B000003), ex.Decide(ex.VerdictWord.GOTO, "services")),
            t.Element(fields.number(0x6B000004), ex.Decide(ex.VerdictWord.DROP)),
        ],
        "endpoints": [t.Element(first + fields.number(1), fields.endpoint(SECOND[family], 8080))],
        "firewall-sources": [t.Element(low, None, "x", high)],
        "cluster-ips": [t.Element(fields.packed_address(FIRST[family]))],
    }


@pytest.mark.parametrize("family", list(Family))
def test_sets_of_nft_are_read_as_they_were_made(family: Family) -> None:
    bodies = [bytes.fromhex(body) for body in CAPTURE[family.label]["sets"]]
    assert [decode_set(body, family) for body in bodies] == list(SETS)
    assert {table_of(body) for body in bodies} == {TABLE}


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("number", range(len(SETS)))
def test_a_set_is_written_as_nft_writes_it(family: Family, number: int) -> None:
    ours = attribute_map(encode_set(family, TABLE, SETS[number], 1), 4)
    kernels = attribute_map(bytes.fromhex(CAPTURE[family.label]["sets"][number]), 4)
    del ours[Set.ID]  # it is the transaction's
    described, kernels_description = ours.pop(Set.DESCRIPTION, b""), kernels[Set.DESCRIPTION]
    assert ours == {kind: kernels.get(kind, bytes(4)) for kind in ours}
    assert unmarked(described) == kernels_description


def unmarked(data: bytes) -> bytes:
    """Leave out the marks of attributes that hold others, as the kernel does."""
    found = b""
    for kind, value in attributes(data):
        is_list = kind == Set.DESCRIPTION_CONCATENATION or len(value) > 4
        found += attribute(kind, unmarked(value) if is_list else value)
    return found


@pytest.mark.parametrize("family", list(Family))
def test_elements_of_nft_are_read_as_they_were_written(family: Family) -> None:
    for name, wanted in elements(family).items():
        assert sorted(captured(family, name), key=repr) == sorted(wanted, key=repr)
    (learnt,) = captured(family, "affinity")
    assert learnt.timeout == 3_600_000
    assert 0 < learnt.expires <= learnt.timeout


@pytest.mark.parametrize("family", list(Family))
def test_elements_are_written_as_the_kernel_gives_them_back(family: Family) -> None:
    """But for the mark of attributes that hold others, which the kernel leaves out."""
    for name, wanted in elements(family).items():
        ours = b"".join(body for _, body in encode_elements(family, TABLE, name, wanted))
        assert list(decode_elements(ours)) == wanted
        sizes = {len(bytes.fromhex(body)) for body in CAPTURE[family.label]["elements"][name]}
        assert len(ours) in sizes


def some_elements(count: int, comment: str = "") -> list[t.Element]:
    return [t.Element(i.to_bytes(12, "big"), i.to_bytes(4, "big"), comment) for i in range(count)]


@pytest.mark.parametrize("comment", ["", "default/web:http", "é" * 64])
@pytest.mark.parametrize("keys_only", [True, False])
def test_a_list_of_elements_fits_into_its_attribute(comment: str, keys_only: bool) -> None:
    wanted = some_elements(10_000, comment)
    found = list(encode_elements(Family.V4, TABLE, "endpoints", wanted, keys_only=keys_only))
    assert len(found) > 3
    read = [element for _, body in found for element in decode_elements(body)]
    assert [each.key for each in read] == [each.key for each in wanted]
    assert keys_only or read == wanted
    starts = [first for first, _ in found]
    assert [read[first] for first in starts] == [next(decode_elements(body)) for _, body in found]
    assert all(len(attribute_map(body, 4)[ElementList.ELEMENTS]) <= MOST_BYTES for _, body in found)


def test_where_an_element_is_in_a_message() -> None:
    wanted = some_elements(20, "of any length")
    ((_, body),) = encode_elements(Family.V4, TABLE, "endpoints", wanted)
    seen = [element_at(body, offset) for offset in range(len(body))]
    assert [each for each in dict.fromkeys(seen) if each is not None] == list(range(20))
    assert seen[0] is None
    assert element_at(body, len(body)) is None
    assert element_at(netfilter_head(Family.V4), 0) is None


CHANGES: list[t.Change] = [
    t.AddTable("of ours"),
    t.AddChain(t.Chain("services")),
    t.Split(),
    t.AddElements("endpoints", some_elements(4000)),
    t.Split(),
    t.Split(),
    t.FlushSet("endpoints"),
    t.DeleteTable(),
]


def test_steps_are_one_transaction_when_they_fit() -> None:
    (parts,) = transactions(encode(Family.V4, TABLE, CHANGES), 1 << 20)
    assert [part.change for part in parts] == [0, 1, 3, 3, 3, 6, 7]
    assert [part.first for part in parts[2:5]] == [0, 1666, 3332]


def test_steps_are_split_only_where_they_may_be() -> None:
    def cut(most_bytes: int) -> list[list[int]]:
        return [
            [part.change for part in parts]
            for parts in transactions(encode(Family.V4, TABLE, CHANGES), most_bytes)
        ]

    (whole,) = transactions(encode(Family.V4, TABLE, CHANGES), 1 << 20)
    first, middle, last = (
        sum(len(part.body) + 16 for part in whole if part.change in which) for which in ((0, 1), (3,), (6, 7))
    )
    edges = 48
    assert cut(middle + edges) == [[0, 1], [3, 3, 3], [6, 7]]
    assert cut(first + middle + edges) == [[0, 1, 3, 3, 3], [6, 7]]
    assert cut(first + middle + last + edges) == [[0, 1, 3, 3, 3, 6, 7]]
    with pytest.raises(TooLarge, match="bytes"):
        cut(middle)


def test_a_batch_as_the_kernel_wants_it() -> None:
    (parts,) = transactions(encode(Family.V4, TABLE, CHANGES), 1 << 20)
    sent = datagram(parts, 100)
    found = list(messages(sent))
    assert [kind for kind, _, _, _ in found[:2]] == [16, Message.NEW_TABLE]
    assert found[-1][0] == 17
    assert [sequence for _, _, sequence, _ in found] == list(range(100, 100 + len(parts) + 2))
    assert [sequence for _, flags, sequence, _ in found if flags & NLM_F_ACK] == [100 + len(parts)]
    assert len(sent) % 4 == 0
    guarded = next(messages(datagram(parts, 100, 7)))
    assert attribute_map(guarded[3], 4) == {1: struct.pack(">I", 7)}


def error_body(code: int, offset: int | None = None) -> bytes:
    body = struct.pack("=i", -code) + bytes(16)
    return body if offset is None else body + struct.pack("=HHI", 8, 2, offset)


def test_refusals() -> None:
    assert decode_refusal(7, error_body(errno.ENOENT)) == Refusal(errno.ENOENT, 7, None)
    assert decode_refusal(7, error_body(errno.EEXIST, 44)) == Refusal(errno.EEXIST, 7, 44)
    assert decode_refusal(7, b"").code == errno.EBADMSG


def test_which_element_was_refused() -> None:
    """As far as the kernel says: before 5.12 only where there is no choice."""
    many, one = (t.AddElements("endpoints", some_elements(count)) for count in (4000, 1))
    (parts,) = transactions(encode(Family.V4, TABLE, [many, one, t.FlushSet("endpoints")]), 1 << 20)
    second, alone, flush = parts[1], parts[-2], parts[-1]
    assert refused_element(Refusal(errno.EEXIST, 1, 16 + len(second.body) - 1), second, many) == parts[2].first - 1
    assert refused_element(Refusal(errno.EEXIST, 1, None), second, many) is None
    assert refused_element(Refusal(errno.EEXIST, 1, None), alone, one) == 0
    assert refused_element(Refusal(errno.ENOENT, 1, 20), alone, one) is None  # it is the set
    assert refused_element(Refusal(errno.ENOENT, 1, 20), flush, t.FlushSet("endpoints")) is None


def test_a_refusal_in_words() -> None:
    place = fields.place("10.96.0.1", Protocol.TCP, 80)
    element = t.Element(place + fields.number(1), fields.endpoint("10.1.1.1", 8080), "default/web:http")
    sets = {spec.name: spec for spec in SETS}
    add, delete = t.AddElements("endpoints", [element]), t.DeleteElements("endpoints", [element])
    where = "nf_tables ip kube-proxy"
    assert explained(errno.EEXIST, where, add, 0, Family.V4, sets) == (
        "nf_tables ip kube-proxy, set endpoints, element 10.96.0.1 . tcp . 80 . 1 : 10.1.1.1 . 8080 "
        "(default/web:http): is there with other data, or overlaps another"
    )
    assert explained(errno.ENOENT, where, delete, 0, Family.V4, sets).endswith(": is not in the set")
    assert explained(errno.ENOENT, where, t.AddElements("gone", [element]), None, Family.V4, sets) == (
        "nf_tables ip kube-proxy, set gone: there is no such set"
    )
    assert explained(errno.EBUSY, where, t.DeleteChain("services")) == f"{where}, chain services: is still in use"
    assert explained(errno.EPERM, where, None).endswith("CAP_NET_ADMIN is needed in this network namespace")
    assert explained(errno.EIO, where, t.AddTable()) == f"{where}, the table: Input/output error"
    assert explained(errno.EINVAL, where, t.AddElements("odd", [t.Element(b"123")]), 0, Family.V4, sets) == (
        f"{where}, set odd, element 0x313233: does not have this set's shape"
    )


@pytest.mark.parametrize("decode", [decode_chain, lambda body: decode_rule(body, Family.V4)])
def test_what_lacks_its_name_is_not_decoded(decode: Any) -> None:
    with pytest.raises(Undecodable):
        decode(bytes(4))


def test_other_answers_that_make_no_sense() -> None:
    with pytest.raises(Undecodable):
        decode_set(bytes(4), Family.V4)
    with pytest.raises(Undecodable):
        decode_generation([])
    cut = struct.pack("=HHHH", 8, ElementList.ELEMENTS, 100, 1)
    with pytest.raises(Undecodable):
        list(decode_elements(bytes(4) + cut))


def test_lengths_and_types_of_fields() -> None:
    key = (*PLACE, Field.SLOT)
    assert [fields.fields_bytes(key, family) for family in Family] == [16, 28]
    assert fields.fields_bytes((Field.PROTOCOL,), Family.V4) == 1
    assert fields.fields_bytes((Field.PROTOCOL, Field.PORT), Family.V6) == 8
    for family in Family:
        number = fields.type_number(key, family)
        assert fields.fields_of_type(number, family) == key
    assert fields.fields_of_type(fields.type_number(PLACE, Family.V6), Family.V4)[0] is Field.OTHER


def test_keys_in_words() -> None:
    key = fields.packed_address("fd00::1") + fields.place("fd00::2", Protocol.SCTP, 53)
    assert fields.text(key, (Field.SOURCE, *PLACE), Family.V6) == "fd00::1 . fd00::2 . sctp . 53"
    assert fields.text(fields.number(0x6B000003), (Field.CLASS,), Family.V4) == "6b00:3"
    assert fields.text(fields.number(0x4000), (Field.MARK,), Family.V4) == "0x4000"
    assert fields.text(b"\x01\x02", (Field.OTHER,), Family.V4) == "0x0102"
    assert (
        fields.text(fields.node_port(Protocol.UDP, 30053), (Field.PROTOCOL, Field.PORT), Family.V4)
        == "udp . 30053"
    )


@pytest.mark.parametrize(
    ("comment", "written"),
    [
        ("default/web:http", "default/web:http"),
        ('say "hello"\n', "say 'hello'?"),
        ("x" * 200, "x" * 128),
        ("é" * 100, "é" * 64),
        ("€" * 100, "€" * 42),
    ],
)
def test_comments_that_nft_reads_back(comment: str, written: str) -> None:
    assert fields.clipped(comment) == written
    assert fields.clipped(written) == written
