"""Patches merge as kubectl's do: lists by their keys, directives obeyed, nothing else touched."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.apiserver.patch import BadPatch, json_patch, merge_patch, strategic_merge
from kubeproxy.apiserver.shapes_apps import DEPLOYMENT
from kubeproxy.apiserver.shapes_core import NODE, SERVICE
from kubeproxy.apiserver.shapes_pod import POD

pytestmark = pytest.mark.unit


def spec(shape, original, patch):
    return strategic_merge({"spec": original}, {"spec": patch}, shape)["spec"]


def test_service_ports_merge_by_port():
    before = {"ports": [{"port": 80, "nodePort": 30001}, {"port": 443}]}
    after = spec(SERVICE, before, {"ports": [{"port": 80, "name": "web"}, {"port": 90}]})
    assert after["ports"] == [{"port": 80, "nodePort": 30001, "name": "web"}, {"port": 443}, {"port": 90}]


def test_a_delete_directive_removes_one_item_and_the_order_follows():
    before = {"ports": [{"port": 80}, {"port": 443}, {"port": 90}]}
    patch = {
        "$setElementOrder/ports": [{"port": 90}, {"port": 80}],
        "ports": [{"port": 443, "$patch": "delete"}],
    }
    assert spec(SERVICE, before, patch)["ports"] == [{"port": 90}, {"port": 80}]


def test_items_that_only_the_server_has_keep_their_place():
    before = {"containers": [{"name": "side"}, {"name": "a"}, {"name": "b"}]}
    patch = {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": []}
    names = [c["name"] for c in spec(POD, before, patch)["containers"]]
    assert names == ["side", "b", "a"]


def test_nested_lists_merge_by_their_own_keys():
    before = {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}}}
    patch = {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]}}}
    env = spec(DEPLOYMENT, before, patch)["template"]["spec"]["containers"][0]["env"]
    assert [e["name"] for e in env] == ["X", "Y"]


def test_retain_keys_drops_the_rest():
    before = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}
    patch = {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}
    assert spec(DEPLOYMENT, before, patch)["strategy"] == {"type": "Recreate"}


def test_replace_directive_replaces_a_map():
    before = {"selector": {"a": "1", "b": "2"}}
    assert spec(SERVICE, before, {"selector": {"$patch": "replace", "c": "3"}}) == {"selector": {"c": "3"}}


def test_primitive_lists_merge_and_lose_what_is_named():
    before = {"podCIDRs": ["10.0.0.0/24"]}
    assert spec(NODE, before, {"podCIDRs": ["fd00::/64"]})["podCIDRs"] == ["10.0.0.0/24", "fd00::/64"]
    assert spec(NODE, before, {"$deleteFromPrimitiveList/podCIDRs": ["10.0.0.0/24"]})["podCIDRs"] == []


def test_null_deletes_and_atomic_lists_are_replaced():
    before = {"externalIPs": ["192.0.2.1"], "type": "NodePort"}
    assert spec(SERVICE, before, {"externalIPs": ["192.0.2.2"], "type": None}) == {"externalIPs": ["192.0.2.2"]}


def test_an_item_without_its_merge_key_is_refused():
    with pytest.raises(BadPatch, match="merge key: port"):
        spec(SERVICE, {"ports": []}, {"ports": [{"name": "x"}]})


def test_merge_patch_is_rfc_7386():
    assert merge_patch({"a": {"b": 1, "c": 2}, "l": [1]}, {"a": {"b": None}, "l": [2]}) == {
        "a": {"c": 2},
        "l": [2],
    }


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/l/-", "value": 3}, {"l": [1, 2, 3], "m": {"a/b": 1}}),
        ({"op": "add", "path": "/l/0", "value": 0}, {"l": [0, 1, 2], "m": {"a/b": 1}}),
        ({"op": "remove", "path": "/m/a~1b"}, {"l": [1, 2], "m": {}}),
        ({"op": "replace", "path": "/l/1", "value": 9}, {"l": [1, 9], "m": {"a/b": 1}}),
        ({"op": "move", "from": "/m/a~1b", "path": "/x"}, {"l": [1, 2], "m": {}, "x": 1}),
        ({"op": "copy", "from": "/l/0", "path": "/m/y"}, {"l": [1, 2], "m": {"a/b": 1, "y": 1}}),
        ({"op": "test", "path": "/l/0", "value": 1}, {"l": [1, 2], "m": {"a/b": 1}}),
    ],
)
def test_json_patch_operations(operation, result):
    document = {"l": [1, 2], "m": {"a/b": 1}}
    assert json_patch(document, [operation]) == result
    assert document == {"l": [1, 2], "m": {"a/b": 1}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/l/0", "value": 2},
        {"op": "remove", "path": "/nope"},
        {"op": "replace", "path": "/l/7", "value": 1},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "add", "path": "l", "value": 1},
        {"op": "explode", "path": "/l"},
        {"op": "add", "path": "/l"},
        "nonsense",
    ],
)
def test_json_patches_that_do_not_apply_are_refused(operation):
    with pytest.raises(BadPatch):
        json_patch({"l": [1]}, [operation])


KEYS = ["spec", "ports", "port", "$patch", "$retainKeys", "$setElementOrder/ports", "$deleteFromPrimitiveList/x"]
LEAVES = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["replace", "delete", "merge", "x"])
PATCHES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
)


@given(st.dictionaries(st.sampled_from(KEYS), PATCHES))
def test_no_patch_breaks_anything_but_itself(patch):
    before = {"spec": {"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]}}
    with contextlib.suppress(BadPatch):
        strategic_merge(before, patch, SERVICE)
    assert before == {"spec": {"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]}}


def test_an_index_of_thousands_of_digits_is_refused():
    with pytest.raises(BadPatch):
        json_patch({"l": [1]}, [{"op": "remove", "path": "/l/" + "9" * 5000}])
