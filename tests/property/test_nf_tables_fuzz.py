"""What is packed is read back; what is no message of ours is refused by name, or comes as something else's."""

import contextlib
import errno
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.kernel.netlink_messages import attribute
from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.element_messages import decode_elements, element_at, encode_elements
from kubeproxy.kernel.nf_tables.fields import clipped
from kubeproxy.kernel.nf_tables.object_messages import (
    Undecodable,
    decode_chain,
    decode_generation,
    decode_rule,
    decode_set,
    encode_chain,
    encode_rule,
    encode_set,
    table_of,
)
from kubeproxy.kernel.nf_tables.refusals import decode_refusal
from kubeproxy.kernel.nf_tables.rule_messages import decode_expressions, encode_expressions
from kubeproxy.kernel.nf_tables.userdata import decode_comment, decode_fields, values
from kubeproxy.model.addresses import Family
from tests.nf_tables_rules import RULES
from tests.property.runs import HISTORIES, runs

pytestmark = pytest.mark.unit

FAMILIES = st.sampled_from(list(Family))
REGISTERS = st.integers(0, 15)
VALUES = st.binary(min_size=1, max_size=64)
NAMES = st.text(
    st.characters(codec="ascii", categories=("L", "N"), include_characters="-_."), min_size=1, max_size=60
)
TEXTS = st.text(max_size=200)
VERDICTS = st.builds(ex.Decide, st.sampled_from(ex.VerdictWord), st.one_of(st.just(""), NAMES))
U32 = st.integers(0, (1 << 32) - 1)


@st.composite
def bitwise(draw: st.DrawFn) -> ex.Bitwise:
    mask = draw(VALUES)
    return ex.Bitwise(draw(REGISTERS), mask, draw(st.binary(min_size=len(mask), max_size=len(mask))))


@st.composite
def lookup(draw: st.DrawFn) -> ex.Lookup:
    verdicts = draw(st.booleans())
    to = None if verdicts else draw(st.one_of(st.none(), REGISTERS))
    return ex.Lookup(draw(NAMES), draw(REGISTERS), to, verdicts, draw(st.booleans()))


EXPRESSIONS = st.one_of(
    st.builds(ex.Payload, st.sampled_from(ex.Header), U32, U32, REGISTERS),
    st.builds(ex.LoadMeta, st.sampled_from(ex.Meta), REGISTERS),
    st.builds(ex.StoreMeta, st.sampled_from(ex.Meta), REGISTERS),
    st.builds(ex.LoadCt, st.sampled_from(ex.Ct), REGISTERS),
    st.builds(ex.LoadAddressType, st.booleans(), REGISTERS),
    st.builds(ex.Random, U32, REGISTERS),
    st.builds(ex.Immediate, VALUES, REGISTERS),
    bitwise(),
    st.builds(ex.Compare, REGISTERS, st.sampled_from(ex.Operator), VALUES),
    lookup(),
    st.builds(
        ex.Dynamic,
        st.sampled_from(ex.DynamicOperation),
        NAMES,
        REGISTERS,
        st.one_of(st.none(), REGISTERS),
        st.integers(0, 1 << 40),
    ),
    st.builds(ex.DestinationNat, REGISTERS, st.one_of(st.none(), REGISTERS), st.booleans()),
    st.sampled_from((ex.Masquerade(), ex.Reject(), ex.Counter())),
    VERDICTS,
)
FIELDS = st.sampled_from([each for each in t.Field if each is not t.Field.OTHER])
SPECS = st.builds(
    t.SetSpec,
    name=NAMES,
    key=st.lists(FIELDS, min_size=1, max_size=5).map(tuple),
    data=st.one_of(st.none(), st.just(t.VERDICTS), st.lists(FIELDS, min_size=1, max_size=3).map(tuple)),
    interval=st.booleans(),
    dynamic=st.booleans(),
    size=U32,
    comment=TEXTS,
)
CHAINS = st.builds(
    t.Chain,
    NAMES,
    st.one_of(
        st.none(),
        st.builds(
            t.Base,
            NAMES,
            st.sampled_from(t.Hook),
            st.integers(-(1 << 31), (1 << 31) - 1),
            st.sampled_from(("accept", "drop")),
        ),
    ),
    TEXTS,
)
ELEMENTS = st.builds(
    t.Element,
    VALUES,
    st.one_of(st.none(), VALUES, VERDICTS),
    TEXTS,
    st.one_of(st.none(), VALUES),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
)
LIKE_EACH_OTHER = st.builds(
    t.Element,
    st.binary(min_size=12, max_size=12),
    st.one_of(st.none(), st.binary(min_size=4, max_size=4)),
    st.one_of(st.just(""), NAMES),
)


@runs(HISTORIES * 4)
@given(FAMILIES, st.lists(EXPRESSIONS, max_size=6), TEXTS)
def test_rules(family: Family, expressions: list[ex.Expression], comment: str) -> None:
    rule = t.Rule("services", tuple(expressions), comment)
    body = encode_rule(family, "kube-proxy", rule) + attribute(3, bytes(8))
    wanted = t.Rule("services", tuple(expressions), clipped(comment))
    assert decode_rule(body, family) == (0, wanted)


@runs(HISTORIES * 4)
@given(FAMILIES, SPECS)
def test_sets(family: Family, spec: t.SetSpec) -> None:
    found = decode_set(encode_set(family, "kube-proxy", spec, 1), family)
    assert found.comment == clipped(spec.comment)
    for what in ("name", "key", "data", "interval", "dynamic", "size", "otherwise"):
        assert getattr(found, what) == getattr(spec, what), what


@runs(HISTORIES * 4)
@given(FAMILIES, CHAINS)
def test_chains(family: Family, chain: t.Chain) -> None:
    wanted = t.Chain(chain.name, chain.base, clipped(chain.comment))
    assert decode_chain(encode_chain(family, "kube-proxy", chain)) == wanted


def as_read(element: t.Element) -> t.Element:
    return t.Element(
        element.key, element.data, clipped(element.comment), element.end, element.timeout, element.expires
    )


@runs(HISTORIES * 4)
@given(st.lists(st.one_of(ELEMENTS, LIKE_EACH_OTHER, LIKE_EACH_OTHER), max_size=20))
def test_elements(elements: list[t.Element]) -> None:
    bodies = encode_elements(Family.V4, "kube-proxy", "endpoints", elements)
    found = [element for _, body in bodies for element in decode_elements(body)]
    assert found == [as_read(each) for each in elements]


DECODERS: list[Callable[[bytes], object]] = [
    table_of,
    decode_chain,
    lambda body: decode_rule(body, Family.V4),
    lambda body: decode_rule(body, Family.V6),
    lambda body: decode_set(body, Family.V4),
    lambda body: decode_set(body, Family.V6),
    lambda body: list(decode_elements(body)),
    lambda body: decode_expressions(body, Family.V4),
    lambda body: decode_generation([body]),
    lambda body: element_at(body, len(body) // 2),
    lambda body: decode_refusal(1, body),
    lambda body: list(values(body)),
    decode_comment,
    lambda body: decode_fields(body, of_key=True, type_number=len(body), family=Family.V6),
]


@runs(HISTORIES * 4)
@given(st.binary(max_size=200))
def test_random_bytes(body: bytes) -> None:
    for decode in DECODERS:
        with contextlib.suppress(Undecodable):
            decode(body)


def _bodies() -> list[bytes]:
    """Return good messages of every kind."""
    found = [encode_expressions(make(family), family) for make in RULES.values() for family in Family]
    found += [
        encode_rule(family, "t", t.Rule("c", make(family), "why")) for make in RULES.values() for family in Family
    ]
    place = (t.Field.ADDRESS, t.Field.PROTOCOL, t.Field.PORT)
    found.append(encode_set(Family.V4, "t", t.SetSpec(name="s", key=place, data=(t.Field.CLASS,), size=5), 1))
    found.append(encode_set(Family.V6, "t", t.SetSpec(name="s", key=place, interval=True, comment="c"), 1))
    found.append(encode_chain(Family.V4, "t", t.Chain("c", t.Base("nat", t.Hook.OUTPUT, -100), "comment")))
    some = [t.Element(bytes(12), bytes(4), comment) for comment in ("", "a", "bcd", "")]
    some += [
        t.Element(bytes(4), ex.Decide(ex.VerdictWord.JUMP, "c")),
        t.Element(bytes(4), None, "", bytes(4), 5, 6),
    ]
    found += [body for _, body in encode_elements(Family.V4, "t", "s", some)]
    return found


BODIES = _bodies()


@runs(HISTORIES * 4)
@given(st.sampled_from(BODIES), st.randoms(use_true_random=False), st.integers(0, 8))
def test_messages_with_wrong_bytes(good: bytes, chance: random.Random, wrong: int) -> None:
    body = bytearray(good)
    for _ in range(wrong):
        body[chance.randrange(len(body))] = chance.choice((0, 1, 2, 4, 8, 0x80, 0xFF, chance.randrange(256)))
    cut = bytes(body[: chance.randint(0, len(body))]) if chance.random() < 0.3 else bytes(body)
    for decode in DECODERS:
        with contextlib.suppress(Undecodable):
            decode(cut)


def test_an_error_without_a_number_is_an_error() -> None:
    assert decode_refusal(1, b"").code == errno.EBADMSG
