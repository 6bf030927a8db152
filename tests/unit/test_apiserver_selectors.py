"""Selectors choose what upstream's choose; what cannot be parsed is a 400."""

import msgspec
import pytest

from kubeproxy.apiserver.kinds import kind_of
from kubeproxy.apiserver.labels import parse_labels
from kubeproxy.apiserver.names import is_label_value, is_qualified_name
from kubeproxy.apiserver.selectors import selection, selector_text
from kubeproxy.apiserver.status import ApiProblem
from kubeproxy.store.resources import CONFIG_MAPS, NODES, PODS

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("!a", {}, True),
        ("a in (x, y)", {"a": "y"}, True),
        ("a in (x,y),b=c", {"a": "y"}, False),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y)", {"a": "x"}, False),
        ("n>5", {"n": "6"}, True),
        ("n<5", {"n": "6"}, False),
        ("n>5", {"n": "--6"}, False),
        ("in=b", {"in": "b"}, True),
        ("in in (in,notin)", {"in": "notin"}, True),
        ("a in ()", {"a": ""}, True),
        ("a in (,x)", {"a": ""}, True),
        ("a in (x,)", {"a": "y"}, False),
        ("a=,b", {"a": "", "b": "x"}, True),
        ("kubernetes.io/name = x , tier", {"kubernetes.io/name": "x", "tier": "1"}, True),
        ("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name", {"a": "b"}, True),
    ],
)
def test_label_selectors(text, labels, matches):
    assert all(term.matches(labels) for term in parse_labels(text)) is matches


[KEY], [VALUE] = is_qualified_name("-bad"), is_label_value("-bad")
[LONG, _] = is_label_value("x" * 64 + "-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a==!", "unable to parse requirement: found '!', expected: identifier"),
        ("a in x", "unable to parse requirement: found 'x' expected: '('"),
        ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in (x,", "unable to parse requirement: found '', expected: ',', or identifier"),
        ("a in (x y)", "unable to parse requirement: found 'y', expected: ',' or ')'"),
        ("a in (=", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("-bad", f'unable to parse requirement: <nil>: Invalid value: "-bad": {KEY}'),
        ("!-bad", f'unable to parse requirement: <nil>: Invalid value: "-bad": {KEY}'),
        ("a=-bad", f'unable to parse requirement: values[0][a]: Invalid value: "-bad": {VALUE}'),
        ("a in (b,-bad)", f'unable to parse requirement: values[0][a]: Invalid value: "-bad": {VALUE}'),
        ("a=" + "x" * 64, f'unable to parse requirement: values[0][a]: Invalid value: "{"x" * 64}": {LONG}'),
        (
            "n>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, "
            "the value must be an integer",
        ),
    ],
)
def test_label_selectors_that_are_refused(text, message):
    with pytest.raises(ApiProblem) as refusal:
        parse_labels(text)
    assert (refusal.value.code, refusal.value.message) == (400, message)


@pytest.mark.parametrize(
    "text", ["n>--5", "n>\u00b2", "\u00b2", "a=\u00b2", "a in (\u00b2)", "a/b/c", "a\x00b", "((", "n>"]
)
def test_what_is_no_label_is_refused_in_a_selector(text):
    with pytest.raises(ApiProblem) as refusal:
        parse_labels(text)
    assert refusal.value.code == 400


def pods(fields):
    return selection("", fields, kind_of(PODS).fields)


def test_field_selectors():
    value = msgspec.json.encode(
        {
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "node1"},
            "status": {"phase": "Running"},
        }
    )
    assert pods("spec.nodeName=node1,status.phase!=Failed").matches(value)
    assert not pods("spec.nodeName!=node1").matches(value)
    assert pods("metadata.name=p,metadata.namespace=n").name == "p"
    assert pods("spec.hostNetwork=false").matches(value)


@pytest.mark.parametrize(
    ("resource", "text", "message"),
    [
        (PODS, "spec.color=red", "field label not supported: spec.color"),
        (PODS, "=red", "field label not supported: "),
        (NODES, "metadata.namespace=x", "field label not supported: metadata.namespace"),
        (
            CONFIG_MAPS,
            "data.a=b",
            '"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"',
        ),
        (PODS, "a=b,spec", "invalid selector: 'a=b,spec'; can't understand 'spec'"),
        (PODS, "spec.nodeName=a=b", "invalid field selector: unescaped character in value: 61"),
        (PODS, r"spec.nodeName=\a", r"invalid field selector: invalid escape sequence: \a"),
        (PODS, "spec.nodeName=a\\", "invalid field selector: invalid escape sequence: \\"),
    ],
)
def test_field_selectors_that_are_refused(resource, text, message):
    with pytest.raises(ApiProblem) as refusal:
        selection("", text, kind_of(resource).fields)
    assert (refusal.value.code, refusal.value.message) == (400, message)


def test_a_field_selector_may_escape_its_separators():
    assert pods(r"metadata.name=a\,b\=c\\d,").name == r"a,b=c\d"


def test_selector_objects_as_text():
    selector = {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}
    assert selector_text(selector) == "a=1,b=2,c"
