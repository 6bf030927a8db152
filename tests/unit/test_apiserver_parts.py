"""The small parts: durations, columns, protobuf, media types, ranges, stored form."""

import random

import msgspec
import pytest

from kubeproxy.apiserver.allocate import parse_ranges
from kubeproxy.apiserver.columns import human_duration
from kubeproxy.apiserver.media import choose, wants_aggregated
from kubeproxy.apiserver.protobuf import decode_protobuf
from kubeproxy.apiserver.status import ApiProblem
from kubeproxy.store.objects import Continue, encode, parse_continue, with_revision

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (600, "10m"),
        (3600 * 3, "3h"),
        (3600 * 4 + 120, "4h2m"),
        (3600 * 47, "47h"),
        (3600 * 49, "2d1h"),
        (86400 * 9, "9d"),
        (86400 * 800, "2y70d"),
        (-5, "<invalid>"),
    ],
)
def test_ages_read_as_kubectl_writes_them(seconds, text):
    assert human_duration(seconds) == text


def test_the_revision_is_spliced_into_the_stored_form():
    obj = {
        "spec": {"metadata": {}},
        "metadata": {"name": "a", "resourceVersion": "1"},
        "apiVersion": "v1",
        "kind": "X",
    }
    value = encode(obj)
    assert b"resourceVersion" not in value
    read = with_revision(value, 42)
    assert read.startswith(b'{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"42",')
    assert msgspec.json.decode(read) == {**obj, "metadata": {"name": "a", "resourceVersion": "42"}}


def test_objects_that_others_stored_in_another_order_are_read():
    value = b'{"metadata": {"name": "a"}, "spec": {"metadata": {"x": 1}}, "kind": "X"}'
    assert msgspec.json.decode(with_revision(value, 7))["metadata"] == {"name": "a", "resourceVersion": "7"}


def test_continue_tokens_survive_the_trip():
    token = Continue(revision=5, key="default/a")
    assert parse_continue(token.token()) == token
    for bad in ("", "!!!", "bm9uc2Vuc2U", "\udcff"):
        with pytest.raises(ValueError):
            parse_continue(bad)


def test_media_types_are_chosen_as_kubectl_orders_them():
    assert choose("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").table
    assert not choose("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json").table
    assert choose("application/vnd.kubernetes.protobuf,application/json") == choose("")
    assert choose("application/yaml").yaml
    with pytest.raises(ApiProblem):
        choose("application/vnd.kubernetes.protobuf")
    assert wants_aggregated(
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    )
    assert not wants_aggregated("application/json")


def field(number, value):
    if isinstance(value, int):
        return bytes([number << 3, value])
    value = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(value)]) + value


def envelope(kind, message):
    return b"k8s\x00" + field(1, field(1, "v1") + field(2, kind)) + field(2, message)


def test_protobuf_objects_are_read():
    meta = field(1, "c") + field(2, "") + field(11, field(1, "k") + field(2, "v"))
    body = envelope(
        "ConfigMap", field(1, meta) + field(2, field(1, "a") + field(2, "1")) + field(3, field(1, "b"))
    )
    assert decode_protobuf(body) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "labels": {"k": "v"}},
        "data": {"a": "1"},
        "binaryData": {"b": ""},
    }


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"k8s\x00\x0a\xff", 400),
        (envelope("Secret", b""), 415),
        (envelope("ConfigMap", field(9, "x")), 400),
        (envelope("ConfigMap", field(1, field(1, b"\xff"))), 400),
        (envelope("ConfigMap", b"\x0d0000"), 400),
        (envelope("ConfigMap", b"\x08\x01"), 400),
    ],
)
def test_protobuf_that_cannot_be_read_is_refused(body, code):
    with pytest.raises(ApiProblem) as refusal:
        decode_protobuf(body)
    assert refusal.value.code == code


def test_random_bytes_never_break_the_protobuf_reader():
    rng = random.Random(3)
    for _ in range(3000):
        body = envelope("Deployment", rng.randbytes(rng.randrange(40)))
        try:
            decode_protobuf(body)
        except ApiProblem:
            continue


@pytest.mark.parametrize(
    ("cidrs", "ports"),
    [
        ("nonsense", "1-2"),
        ("10.0.0.0/30", "1-2"),
        ("10.0.0.0/16", "5"),
        ("10.0.0.0/16", "9-5"),
        ("10.0.0.0/16,10.1.0.0/16", "1-2"),
    ],
)
def test_ranges_that_cannot_be_are_refused(cidrs, ports):
    with pytest.raises(ValueError):
        parse_ranges(cidrs, ports)
