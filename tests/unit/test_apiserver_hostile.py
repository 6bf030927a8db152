"""Bodies that are cheap to send and dear to read: refused with a Status, at once, by a server that lives on."""

import subprocess
import sys
import time

import msgspec
import pytest

from kubeproxy.apiserver import media, patch
from kubeproxy.apiserver.kinds import KINDS
from tests.apiserver_bed import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    MERGE,
    PODS,
    SERVICES,
    STRATEGIC,
    api_bed,
    deployment,
    pod,
    service,
)

pytestmark = pytest.mark.unit

YAML, JSON, JSON_PATCH = "application/yaml", "application/json", "application/json-patch+json"
SECONDS = 2.0
"""A refusal takes milliseconds; what these bodies cost before they were refused begins at five seconds."""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 500_000, "too deeply"),
        ("[a," * 50 + "a,]," * 50_000, "couldn't parse"),
        ("{a: " * 5_000, "too deeply"),
        ("[" + "a," * 500_000 + "]", "too many values"),
        ("1" + ":1" * 500_000, "number is too long"),
        ("1" + ":1" * 500_000 + ".5", "number is too long"),
        ("9" * 5_000, "number is too long"),
        ("[" + ".inf, -0x1f, 1_000, 1e3," + "]", "an object was expected"),
        *(
            (f"!!{tag} abc", "YAML tag")
            for tag in ("int", "float", "bool", "timestamp", "binary", "set", "python/name:os")
        ),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_yaml_that_is_dear_to_read_is_refused(text, complaint):
    async with api_bed() as bed:
        begin = time.monotonic()
        code, told = await bed.call("POST", CONFIG_MAPS, text.encode(), Content_Type=YAML)
        assert code == 400, told
        assert complaint in told["message"]
        assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize("pattern", ["- ", "? ", "- - ? "])
def test_yaml_that_nests_without_end_does_not_end_the_process(pattern):
    """In a process of its own: the C loader's recursion takes the machine's stack, and the process with it."""
    program = (
        "from kubeproxy.apiserver import media, status\n"
        "try:\n"
        f"    media.decode_body({pattern!r}.encode() * 170_000, 'application/yaml')\n"
        "except status.ApiProblem as problem: print(problem.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "400\n")


def test_a_long_answer_in_yaml_is_json_which_is_yaml():
    value = msgspec.json.encode({"items": [service(f"s{i}") for i in range(20_000)]})
    begin = time.monotonic()
    assert media.encode_yaml(value) == value
    assert time.monotonic() - begin < SECONDS
    assert media.encode_yaml(b'{"a":["\xc3\xa9"]}').startswith(b"a:\n- ")


CONFIG_MAP = {"metadata": {"finalizers": [f"a/{i}" for i in range(60_000)]}, "data": {"k": "v"}}
SHAPES = {kind.name: kind.shape for kind in KINDS}
MANY = [f"b/{i}" for i in range(100_000)]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"metadata": {"finalizers": MANY}}, "ConfigMap"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": MANY}}, "ConfigMap"),
        ({"data": {"$retainKeys": MANY, **dict.fromkeys(MANY, "v")}}, "ConfigMap"),
        ({"spec": {"ports": [{"port": i} for i in range(60_000)]}}, "Service"),
        ({"spec": {"ports": [{"port": i, "$patch": "delete"} for i in range(60_000)]}}, "Service"),
    ],
)
def test_a_strategic_merge_takes_no_square_of_its_length(change, kind):
    begin = time.monotonic()
    patch.strategic_merge(CONFIG_MAP, change, SHAPES[kind])
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize(
    ("operations", "complaint"),
    [
        ([{"op": "copy", "from": "/data", "path": f"/data/b{i}"} for i in range(40)], "copies of a JSON patch"),
        ([{"op": "test", "path": "/data/k", "value": "v"}] * 10_001, "maximum operations"),
        ([{"op": "copy", "path": "/data/b"}], "copy operation has no from"),
    ],
)
async def test_a_json_patch_that_grows_is_refused(operations, complaint):
    async with api_bed() as bed:
        await bed.made(CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"k": "v"}})
        code, told = await bed.call("PATCH", f"{CONFIG_MAPS}/c", operations, Content_Type=JSON_PATCH)
        assert code == 422
        assert complaint in told["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{}] * 900_000}}),
        (CONFIG_MAPS, {"metadata": {"name": "c", "labels": {f"!{i}": "!" for i in range(60_000)}}}),
        (CONFIG_MAPS, {"metadata": {"name": "c", "ownerReferences": [{}] * 900_000}}),
        (CONFIG_MAPS, {"metadata": {"name": "c", "ownerReferences": [{"controller": True}] * 10_000}}),
    ],
)
async def test_a_body_of_many_bad_values_is_told_in_few_words(path, body):
    async with api_bed() as bed:
        begin = time.monotonic()
        code, told = await bed.call("POST", path, body)
        assert code in (400, 422)
        assert len(told["message"]) + len(str(told.get("details"))) < 2_000_000
        assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize("field", ["metadata", "spec"])
@pytest.mark.parametrize("kind", [MERGE, STRATEGIC])
async def test_a_scale_of_no_objects_is_a_400(field, kind):
    async with api_bed() as bed:
        await bed.made(DEPLOYMENTS, deployment("d"))
        code, told = await bed.call("PATCH", f"{DEPLOYMENTS}/d/scale", {field: "x"}, Content_Type=kind)
        assert (code, told["reason"]) == (400, "BadRequest")


async def test_a_dry_run_binds_nothing():
    async with api_bed() as bed:
        await bed.made(PODS, pod("p"))
        code, _ = await bed.call("POST", f"{PODS}/p/binding?dryRun=All", {"target": {"name": "n"}})
        assert code == 201
        _, kept = await bed.call("GET", f"{PODS}/p")
        assert "nodeName" not in kept["spec"]
