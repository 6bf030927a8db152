"""Selectors choose what upstream's choose; what cannot be parsed is a 400."""

import msgspec
import pytest

from kubeproxy.apiserver.kinds import kind_of
from kubeproxy.apiserver.selectors import parse_labels, selection, selector_text
from kubeproxy.apiserver.status import ApiProblem
from kubeproxy.store.resources import PODS

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
        ("kubernetes.io/name = x , tier", {"kubernetes.io/name": "x", "tier": "1"}, True),
        ("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name", {"a": "b"}, True),
    ],
)
def test_label_selectors(text, labels, matches):
    assert all(term.matches(labels) for term in parse_labels(text)) is matches


@pytest.mark.parametrize("text", ["a=b=c", "a in x", ",", "=b", "a in (x", "n>x", "n>--5", "n>\u00b2"])
def test_label_selectors_that_are_refused(text):
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


def test_unknown_fields_are_refused():
    with pytest.raises(ApiProblem, match=r"field label not supported: spec\.color"):
        pods("spec.color=red")


def test_selector_objects_as_text():
    selector = {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}
    assert selector_text(selector) == "a=1,b=2,c"
