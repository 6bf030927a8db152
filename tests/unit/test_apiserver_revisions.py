"""resourceVersion, its match, limit and continue mean what https://kubernetes.io/docs/reference/using-api says."""

import pytest

from tests.apiserver_bed import CONFIG_MAPS, api_bed

pytestmark = pytest.mark.unit

MATCH = "resourceVersionMatch"
REFUSED = {
    f"{MATCH}=Exact": [
        (MATCH, "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"),
    ],
    f"{MATCH}=Exact&resourceVersion=0": [
        (MATCH, 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'),
    ],
    f"{MATCH}=Exact&resourceVersion=1&continue=x": [
        (MATCH, "Forbidden: resourceVersionMatch is forbidden when continue is provided"),
    ],
    f"{MATCH}=Odd&resourceVersion=1": [
        (MATCH, 'Unsupported value: "Odd": supported values: "", "Exact", "NotOlderThan"'),
    ],
    "sendInitialEvents=true": [("sendInitialEvents", "Forbidden: sendInitialEvents is forbidden for list")],
    "watch=1&sendInitialEvents=true": [
        (MATCH, "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
    ],
    f"watch=1&{MATCH}=NotOlderThan": [
        (MATCH, "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
    ],
}


async def test_options_that_do_not_go_together_are_refused_by_field():
    async with api_bed() as bed:
        for query, causes in REFUSED.items():
            code, told = await bed.call("GET", f"{CONFIG_MAPS}?{query}")
            assert (code, told["reason"], told["details"]["kind"]) == (422, "Invalid", "ListOptions"), query
            assert told["message"].startswith('ListOptions.meta.k8s.io "" is invalid: '), query
            assert [(c["field"], c["message"]) for c in told["details"]["causes"]] == causes
        code, told = await bed.call("GET", f"{CONFIG_MAPS}?resourceVersion=5&continue=x")
        assert (code, told["message"]) == (400, "specifying resource version is not allowed when using continue")
        for query in ("resourceVersion=abc", "limit=x", "timeoutSeconds=-1", "continue=x"):
            assert (await bed.call("GET", f"{CONFIG_MAPS}?{query}"))[0] == 400, query


async def filled(bed, count):
    made = [await bed.made(CONFIG_MAPS, {"metadata": {"name": f"c{number}"}}) for number in range(count)]
    return [int(obj["metadata"]["resourceVersion"]) for obj in made]


def names(answer):
    return [item["metadata"]["name"] for item in answer["items"]]


async def test_a_list_is_of_the_revision_asked_for():
    async with api_bed() as bed:
        first, _, last = await filled(bed, 3)
        everything, then = ["c0", "c1", "c2"], ["c0"]
        for query, expected in {
            "": everything,
            "resourceVersion=0": everything,
            f"resourceVersion={first}": everything,
            f"resourceVersion={first}&{MATCH}=NotOlderThan": everything,
            f"resourceVersion={first}&{MATCH}=NotOlderThan&limit=5": everything,
            f"resourceVersion={first}&{MATCH}=Exact": then,
            f"resourceVersion={first}&limit=5": then,
        }.items():
            code, found = await bed.call("GET", f"{CONFIG_MAPS}?{query}")
            assert (code, names(found)) == (200, expected), query
            assert found["metadata"]["resourceVersion"] == str(first if expected == then else last)


async def test_a_revision_from_the_future_times_out_with_its_cause():
    async with api_bed() as bed:
        (now,) = await filled(bed, 1)
        for path in (
            f"{CONFIG_MAPS}?resourceVersion={now + 5}",
            f"{CONFIG_MAPS}?resourceVersion={now + 5}&{MATCH}=Exact",
            f"{CONFIG_MAPS}/c0?resourceVersion={now + 5}",
        ):
            code, told = await bed.call("GET", path)
            assert (code, told["reason"], told["details"]["retryAfterSeconds"]) == (504, "Timeout", 1)
            assert told["message"] == f"Timeout: Too large resource version: {now + 5}, current: {now}"
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            assert told["details"]["causes"] == [cause]
        for revision in ("", "0", str(now)):
            assert (await bed.call("GET", f"{CONFIG_MAPS}/c0?resourceVersion={revision}"))[0] == 200


async def test_a_page_whose_revision_is_gone_offers_the_rest_without_consistency():
    async with api_bed() as bed:
        await filled(bed, 5)
        _, page = await bed.call("GET", f"{CONFIG_MAPS}?limit=2")
        meta = page["metadata"]
        assert (names(page), meta["remainingItemCount"]) == (["c0", "c1"], 3)
        await bed.call("DELETE", f"{CONFIG_MAPS}/c2")
        code, second = await bed.call("GET", f"{CONFIG_MAPS}?limit=2&continue={meta['continue']}")
        assert (code, names(second)) == (200, ["c2", "c3"])
        assert second["metadata"]["resourceVersion"] == meta["resourceVersion"]
        last = await bed.made(CONFIG_MAPS, {"metadata": {"name": "c9"}})
        await bed.registry.store.compact(int(last["metadata"]["resourceVersion"]))
        code, told = await bed.call("GET", f"{CONFIG_MAPS}?limit=2&continue={meta['continue']}")
        assert (code, told["reason"]) == (410, "Expired")
        assert told["message"].startswith("The provided continue parameter is too old to display a consistent")
        rest = f"{CONFIG_MAPS}?limit=2&continue={told['metadata']['continue']}"
        code, page = await bed.call("GET", rest)
        assert (code, names(page), page["metadata"]["remainingItemCount"]) == (200, ["c3", "c4"], 1)
        assert page["metadata"]["resourceVersion"] == last["metadata"]["resourceVersion"]
        code, told = await bed.call("GET", f"{CONFIG_MAPS}?resourceVersion=2&{MATCH}=Exact")
        assert (code, told["message"]) == (410, "The resourceVersion for the provided list is too old.")


async def test_options_of_writes_are_checked_before_anything_is_written():
    async with api_bed() as bed:
        await filled(bed, 1)
        body = {"metadata": {"name": "c0"}, "data": {"a": "b"}}
        for method, kind in {"PUT": "UpdateOptions", "POST": "CreateOptions", "DELETE": "DeleteOptions"}.items():
            path = CONFIG_MAPS if method == "POST" else f"{CONFIG_MAPS}/c0"
            code, told = await bed.call(method, f"{path}?dryRun=Some", None if method == "DELETE" else body)
            assert (code, told["details"]["kind"]) == (422, kind)
            assert told["details"]["causes"][0]["field"] == "dryRun"
        code, told = await bed.call("DELETE", f"{CONFIG_MAPS}/c0?propagationPolicy=Sideways")
        assert (code, told["details"]["causes"][0]["field"]) == (422, "propagationPolicy")
        both = {"propagationPolicy": "Orphan", "orphanDependents": True}
        assert (await bed.call("DELETE", f"{CONFIG_MAPS}/c0", both))[0] == 422
        _, kept = await bed.call("GET", f"{CONFIG_MAPS}/c0")
        assert "data" not in kept
