"""What nobody should do, and what should not happen: each is answered with a Status, and the rest is served."""

import msgspec
import pytest

from kubeproxy.apiserver import openapi
from kubeproxy.store.base import put
from tests.apiserver_bed import CONFIG_MAPS, MERGE, SERVICES, TABLE, api_bed, service

pytestmark = pytest.mark.unit


async def test_a_bug_is_a_500_with_a_status_and_a_line_in_the_log(monkeypatch, caplog):
    async with api_bed() as bed:

        async def broken(*_args, **_options):
            raise KeyError("a bug")

        monkeypatch.setattr(bed.registry, "read", broken)
        code, told = await bed.call("GET", f"{SERVICES}/kubernetes")
        assert (code, told["kind"], told["reason"]) == (500, "Status", "InternalError")
        assert "Traceback" not in told["message"]
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert line.exc_info
    assert SERVICES in line.getMessage()


async def test_times_are_checked_and_a_row_that_cannot_be_made_hides_no_other():
    events = "/api/v1/namespaces/default/events"
    async with api_bed() as bed:
        event = {"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}}
        for bad in ("garbage", "2026-02-30T00:00:00Z", "2026-02-03", ""):
            told = await bed.refused(events, {**event, "lastTimestamp": bad})
            assert told.startswith('Event in version "v1" cannot be handled as a Event: parsing time')
        await bed.made(events, {**event, "lastTimestamp": "2026-02-03T04:05:06.123456Z"})
        odd = {"kind": "Event", "apiVersion": "v1", "metadata": {"name": "odd"}, "lastTimestamp": "garbage"}
        await put(bed.registry.store, b"/registry/events/default/odd", msgspec.json.encode(odd))
        code, shown = await bed.call("GET", events, **TABLE)
        assert code == 200
        assert [row["cells"][0] for row in shown["rows"]][1] == "<unknown>"


async def test_system_namespaces_are_not_deleted_and_a_plain_update_cannot_let_one_go():
    async with api_bed() as bed:
        code, told = await bed.call("DELETE", "/api/v1/namespaces/default")
        assert (code, told["message"]) == (
            403,
            'namespaces "default" is forbidden: this namespace may not be deleted',
        )
        await bed.made("/api/v1/namespaces", {"metadata": {"name": "n"}})
        await bed.call("PATCH", "/api/v1/namespaces/n", {"spec": {"finalizers": None}}, Content_Type=MERGE)
        _, kept = await bed.call("GET", "/api/v1/namespaces/n")
        assert kept["spec"]["finalizers"] == ["kubernetes"]


async def test_a_namespace_that_goes_is_named_as_the_cause():
    async with api_bed() as bed:
        await bed.made("/api/v1/namespaces", {"metadata": {"name": "n"}})
        await bed.call("DELETE", "/api/v1/namespaces/n")
        code, told = await bed.call("POST", "/api/v1/namespaces/n/services", service("a"))
        assert code == 403
        assert told["details"]["causes"][0]["reason"] == "NamespaceTerminating"


async def test_an_empty_namespace_in_the_object_is_the_paths():
    async with api_bed() as bed:
        made = await bed.made(CONFIG_MAPS, {"metadata": {"name": "c", "namespace": ""}})
        assert made["metadata"]["namespace"] == "default"
        code, _ = await bed.call("PATCH", f"{CONFIG_MAPS}/c", {"metadata": None, "data": {}}, Content_Type=MERGE)
        assert code == 200


async def test_a_packed_body_is_a_415():
    async with api_bed() as bed:
        code, told = await bed.call("POST", SERVICES, b"no gzip", Content_Encoding="gzip")
        assert (code, told["reason"]) == (415, "UnsupportedMediaType")


async def test_null_preconditions_ask_for_nothing():
    async with api_bed() as bed:
        await bed.made(SERVICES, service("a"))
        assert (await bed.call("DELETE", f"{SERVICES}/a", {"preconditions": {"uid": None}}))[0] == 200


async def test_the_second_openapi_has_both_forms():
    async with api_bed() as bed:
        code, found = await bed.call("GET", "/openapi/v2")
        assert (code, found["swagger"], found["definitions"]) == (200, "2.0", {})
        async with bed.client.get("/openapi/v2", headers={"Accept": openapi.V2_PROTOBUF}) as answer:
            assert (await answer.read()).startswith(b"\x0a\x032.0\x12")
