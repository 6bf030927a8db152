"""The REST verbs behave as Kubernetes': revisions, conflicts, subresources, deletion, errors as Status."""

import asyncio

import msgspec
import pytest

from kubeproxy.store.base import Unavailable
from tests.apiserver_bed import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    MERGE,
    PODS,
    REPLICA_SETS,
    SERVICES,
    SLICES,
    STRATEGIC,
    TABLE,
    api_bed,
    collector,
    deployment,
    pod,
    service,
)

pytestmark = pytest.mark.unit


async def test_system_namespaces_stand_and_others_are_asked_for():
    async with api_bed() as bed:
        _, found = await bed.call("GET", "/api/v1/namespaces")
        names = [item["metadata"]["name"] for item in found["items"]]
        assert names == ["default", "kube-node-lease", "kube-public", "kube-system"]
        told = await bed.refused("/api/v1/namespaces/nowhere/services", service("a"))
        assert told == 'namespaces "nowhere" not found'


async def test_a_stale_replace_is_a_conflict_and_a_patch_is_not():
    async with api_bed() as bed:
        made = await bed.made(CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"a": "1"}})
        fresh = {**made, "data": {"a": "2"}}
        assert (await bed.call("PUT", f"{CONFIG_MAPS}/c", fresh))[0] == 200
        code, told = await bed.call("PUT", f"{CONFIG_MAPS}/c", {**made, "data": {"a": "3"}})
        assert (code, told["reason"]) == (409, "Conflict")
        assert told["message"] == (
            'Operation cannot be fulfilled on configmaps "c": the object has been modified; '
            "please apply your changes to the latest version and try again"
        )
        code, changed = await bed.call("PATCH", f"{CONFIG_MAPS}/c", {"data": {"b": "1"}}, Content_Type=MERGE)
        assert (code, changed["data"]) == (200, {"a": "2", "b": "1"})


LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SERVICES, service("a")),
        ("/api/v1/namespaces/default/endpoints", {"metadata": {"name": "a"}}),
        (LEASES, {"metadata": {"name": "a"}, "spec": {"holderIdentity": "me"}}),
        (
            "/api/v1/namespaces/default/events",
            {
                "metadata": {"name": "a"},
                "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
                "reason": "Tested",
            },
        ),
    ],
)
async def test_some_kinds_are_created_by_a_put(path, body):
    async with api_bed() as bed:
        code, made = await bed.call("PUT", f"{path}/a", body)
        assert (code, made["metadata"]["name"]) == (201, "a")
        assert await bed.call("GET", f"{path}/a") == (200, made)
        assert (await bed.call("PUT", f"{path}/a", body))[0] == 200
        await bed.call("DELETE", f"{path}/a")
        refused = [made, {**body, "metadata": {"name": "a", "resourceVersion": "5"}}]
        for seen_before in refused:
            code, told = await bed.call("PUT", f"{path}/a", seen_before)
            assert (code, told["reason"]) == (409, "Conflict")
        assert (await bed.call("PUT", f"{path}/b", body))[0] == 400
        assert (await bed.call("PUT", f"{path}/a/status", body))[0] == 404
        assert (await bed.call("PATCH", f"{path}/a", {}, Content_Type=MERGE))[0] == 404
        elsewhere, _ = await bed.call("PUT", f"{path.replace('default', 'nowhere')}/a", body)
        assert elsewhere == (422 if "involvedObject" in body else 404)
        assert (await bed.call("PUT", f"{path}/a?dryRun=All", body))[0] == 201
        assert (await bed.call("GET", f"{path}/a"))[0] == 404


async def test_other_kinds_are_not_created_by_a_put():
    async with api_bed() as bed:
        made = await bed.made(CONFIG_MAPS, {"metadata": {"name": "c"}})
        await bed.call("DELETE", f"{CONFIG_MAPS}/c")
        code, told = await bed.call("PUT", f"{CONFIG_MAPS}/c", {"metadata": {"name": "c"}})
        assert (code, told["message"]) == (404, 'configmaps "c" not found')
        code, told = await bed.call("PUT", f"{CONFIG_MAPS}/c", made)
        uid = made["metadata"]["uid"]
        assert (code, told["message"]) == (
            409,
            'Operation cannot be fulfilled on configmaps "c": Precondition failed: UID in precondition: '
            f"{uid}, UID in object meta: ",
        )


async def test_clients_that_put_the_same_new_object_at_once_all_succeed():
    async with api_bed() as bed:
        asked = [bed.call("PUT", f"{LEASES}/a", {"spec": {"holderIdentity": str(i)}}) for i in range(8)]
        codes = sorted(code for code, _ in await asyncio.gather(*asked))
        assert codes == [200] * 7 + [201]


async def test_parallel_patches_all_land():
    async with api_bed() as bed:
        await bed.made(CONFIG_MAPS, {"metadata": {"name": "c"}})

        async def add(i):
            return await bed.call("PATCH", f"{CONFIG_MAPS}/c", {"data": {f"k{i}": "v"}}, Content_Type=MERGE)

        assert {code for code, _ in await asyncio.gather(*(add(i) for i in range(8)))} == {200}
        _, found = await bed.call("GET", f"{CONFIG_MAPS}/c")
        assert len(found["data"]) == 8


async def test_a_change_of_nothing_writes_nothing():
    async with api_bed() as bed:
        made = await bed.made(SERVICES, service("a"))
        code, same = await bed.call("PATCH", f"{SERVICES}/a", {"spec": {}}, Content_Type=STRATEGIC)
        assert (code, same["metadata"]["resourceVersion"]) == (200, made["metadata"]["resourceVersion"])


async def test_status_and_spec_are_written_apart_and_generation_counts_the_spec():
    async with api_bed() as bed:
        made = await bed.made(DEPLOYMENTS, deployment("web") | {"status": {"replicas": 9}})
        assert made["status"] == {}
        assert made["metadata"]["generation"] == 1
        meta = {**made["metadata"], "labels": {"from": "status"}, "annotations": {"from": "status"}}
        new = {**made, "metadata": meta, "status": {"replicas": 4}, "spec": {**made["spec"], "replicas": 7}}
        _, after = await bed.call("PUT", f"{DEPLOYMENTS}/web/status", new)
        assert (after["status"], after["spec"]["replicas"]) == ({"replicas": 4}, 1)
        assert ("labels" in after["metadata"], after["metadata"]["annotations"]) == (False, {"from": "status"})
        assert after["metadata"]["generation"] == 1
        patch = {"spec": {"replicas": 3}, "status": {"replicas": 8}}
        _, after = await bed.call("PATCH", f"{DEPLOYMENTS}/web", patch, Content_Type=STRATEGIC)
        assert (after["status"], after["spec"]["replicas"]) == ({"replicas": 4}, 3)
        assert after["metadata"]["generation"] == 2


async def test_scale_reads_and_writes_replicas():
    async with api_bed() as bed:
        await bed.made(DEPLOYMENTS, deployment("web"))
        _, scale = await bed.call("GET", f"{DEPLOYMENTS}/web/scale")
        assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 1}, "app=web")
        scale["spec"]["replicas"] = 5
        code, scale = await bed.call("PUT", f"{DEPLOYMENTS}/web/scale", scale)
        assert (code, scale["spec"]["replicas"]) == (200, 5)
        code, scale = await bed.call(
            "PATCH", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 2}}, Content_Type=MERGE
        )
        assert (code, scale["spec"]["replicas"]) == (200, 2)
        code, _ = await bed.call(
            "PATCH", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": -1}}, Content_Type=MERGE
        )
        assert code == 422


async def test_a_running_pod_is_given_its_grace():
    async with api_bed() as bed:
        await bed.made(PODS, pod("pending"))
        assert (await bed.call("DELETE", f"{PODS}/pending"))[0] == 200
        assert (await bed.call("GET", f"{PODS}/pending"))[0] == 404
        made = await bed.made(PODS, pod("p", nodeName="node1", terminationGracePeriodSeconds=7))
        code, going = await bed.call("DELETE", f"{PODS}/p")
        assert code == 200
        assert going["metadata"]["deletionGracePeriodSeconds"] == 7
        _, still = await bed.call("GET", f"{PODS}/p")
        assert still["metadata"]["deletionTimestamp"]
        wrong = {"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}}
        assert (await bed.call("DELETE", f"{PODS}/p", wrong))[0] == 409
        right = {"gracePeriodSeconds": 0, "preconditions": {"uid": made["metadata"]["uid"]}}
        assert (await bed.call("DELETE", f"{PODS}/p", right))[0] == 200
        assert (await bed.call("GET", f"{PODS}/p"))[0] == 404


async def test_a_pod_is_bound_once():
    async with api_bed() as bed:
        await bed.made(PODS, pod("p"))
        binding = {"target": {"kind": "Node", "name": "node1"}}
        assert (await bed.call("POST", f"{PODS}/p/binding", binding))[0] == 201
        assert (await bed.call("POST", f"{PODS}/p/binding", {"target": {"name": "node2"}}))[0] == 409
        _, bound = await bed.call("GET", f"{PODS}/p")
        assert bound["spec"]["nodeName"] == "node1"


async def test_generated_names_differ():
    async with api_bed() as bed:
        bodies = [pod("") | {"metadata": {"generateName": "web-"}} for _ in range(5)]
        names = {(await bed.made(PODS, body))["metadata"]["name"] for body in bodies}
        assert len(names) == 5
        assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def until_gone(bed, path):
    async with asyncio.timeout(10):
        while (await bed.call("GET", path))[0] != 404:
            await asyncio.sleep(0.01)


def owned(kind, owner):
    meta = owner["metadata"]
    reference = {"apiVersion": owner["apiVersion"], "kind": kind, "name": meta["name"], "uid": meta["uid"]}
    return [{**reference, "controller": True, "blockOwnerDeletion": True}]


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
async def test_owners_take_what_they_own_along(policy):
    async with api_bed() as bed:
        task = asyncio.create_task(collector(bed).run())
        owner = await bed.made(DEPLOYMENTS, deployment("web"))
        replica_set = deployment("rs")
        replica_set["metadata"]["ownerReferences"] = owned("Deployment", owner)
        middle = await bed.made(REPLICA_SETS, replica_set)
        leaf = pod("p")
        leaf["metadata"]["ownerReferences"] = owned("ReplicaSet", middle)
        await bed.made(PODS, leaf)
        assert (await bed.call("DELETE", f"{DEPLOYMENTS}/web", {"propagationPolicy": policy}))[0] == 200
        await until_gone(bed, f"{PODS}/p")
        await until_gone(bed, f"{REPLICA_SETS}/rs")
        await until_gone(bed, f"{DEPLOYMENTS}/web")
        task.cancel()


async def test_orphans_stay():
    async with api_bed() as bed:
        task = asyncio.create_task(collector(bed).run())
        owner = await bed.made(DEPLOYMENTS, deployment("web"))
        leaf = pod("p")
        leaf["metadata"]["ownerReferences"] = owned("Deployment", owner)
        await bed.made(PODS, leaf)
        await bed.call("DELETE", f"{DEPLOYMENTS}/web", {"propagationPolicy": "Orphan"})
        await until_gone(bed, f"{DEPLOYMENTS}/web")
        code, found = await bed.call("GET", f"{PODS}/p")
        assert (code, "ownerReferences" in found["metadata"]) == (200, False)
        task.cancel()


async def test_a_deleted_namespace_is_emptied_and_takes_nothing_new():
    async with api_bed() as bed:
        await bed.made("/api/v1/namespaces", {"metadata": {"name": "n"}})
        await bed.made("/api/v1/namespaces/n/services", service("a", clusterIP="10.96.0.99"))
        _, going = await bed.call("DELETE", "/api/v1/namespaces/n")
        assert going["status"]["phase"] == "Terminating"
        told = await bed.refused("/api/v1/namespaces/n/services", service("b"))
        assert told == (
            'services "b" is forbidden: unable to create new content in namespace n because it is being terminated'
        )
        task = asyncio.create_task(collector(bed).run())
        await until_gone(bed, "/api/v1/namespaces/n")
        await bed.made(SERVICES, service("c", clusterIP="10.96.0.99"))
        task.cancel()


async def test_pages_of_a_list_are_of_one_revision():
    async with api_bed() as bed:
        for name in "abcde":
            await bed.made(CONFIG_MAPS, {"metadata": {"name": name}})
        _, page = await bed.call("GET", f"{CONFIG_MAPS}?limit=2")
        assert page["metadata"]["remainingItemCount"] == 3
        await bed.call("DELETE", f"{CONFIG_MAPS}/d")
        names = [item["metadata"]["name"] for item in page["items"]]
        while token := page["metadata"].get("continue"):
            _, page = await bed.call("GET", f"{CONFIG_MAPS}?limit=2&continue={token}")
            names += [item["metadata"]["name"] for item in page["items"]]
        assert names == ["a", "b", "c", "d", "e"]
        assert (await bed.call("GET", f"{CONFIG_MAPS}?continue=nonsense"))[0] == 400


async def test_a_page_whose_revision_is_gone_is_expired():
    async with api_bed() as bed:
        for name in "abc":
            await bed.made(CONFIG_MAPS, {"metadata": {"name": name}})
        _, page = await bed.call("GET", f"{CONFIG_MAPS}?limit=1")
        last = await bed.made(CONFIG_MAPS, {"metadata": {"name": "z"}})
        await bed.registry.store.compact(int(last["metadata"]["resourceVersion"]))
        code, told = await bed.call("GET", f"{CONFIG_MAPS}?limit=1&continue={page['metadata']['continue']}")
        assert (code, told["reason"]) == (410, "Expired")


async def test_tables_have_upstream_columns():
    async with api_bed() as bed:
        await bed.made(SERVICES, service("a", clusterIP="10.96.0.44", selector={"x": "y"}))
        _, table = await bed.call("GET", f"{SERVICES}/a", **TABLE)
        assert table["kind"] == "Table"
        names = [column["name"] for column in table["columnDefinitions"]]
        assert names == ["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"]
        cells = table["rows"][0]["cells"]
        assert cells[:5] == ["a", "ClusterIP", "10.96.0.44", "<none>", "80/TCP"]
        assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_unknown_fields_are_told_or_refused():
    async with api_bed() as bed:
        body = service("a")
        body["spec"]["prots"] = []
        body["spec"]["ports"][0]["nodeport"] = 1
        told = await bed.refused(f"{SERVICES}?fieldValidation=Strict", body)
        assert told == (
            'Service in version "v1" cannot be handled as a Service: strict decoding error: '
            'unknown field "spec.ports[0].nodeport", unknown field "spec.prots"'
        )
        data = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        async with bed.client.post(SERVICES, data=data, headers=headers) as answer:
            assert answer.status == 201
            assert answer.headers.getall("Warning")[1] == '299 - "unknown field \\"spec.prots\\""'
            assert "prots" not in (await answer.json())["spec"]


EVENTS = "/api/v1/namespaces/default/events"


@pytest.mark.parametrize(
    ("path", "body", "content_type", "code"),
    [
        (SERVICES, b"{", "application/json", 400),
        (SERVICES, b"a: [b", "application/yaml", 400),
        (SERVICES, b"a: &x [1]\nb: *x", "application/yaml", 400),
        (SERVICES, b"[]", "application/json", 400),
        (SERVICES, b"[" * 100_000, "application/json", 400),
        (SERVICES, b"\xff\xfe", "application/json", 400),
        (SERVICES, b"{}", "text/html", 415),
        (SERVICES, b"k8s\x00\xff\xff", "application/vnd.kubernetes.protobuf", 400),
        (SERVICES, b'{"kind":"Pod","apiVersion":"v1"}', "application/json", 400),
        (SERVICES, b'{"metadata":{"name":"a"},"spec":{"ports":[{"port":"x"}]}}', "application/json", 400),
        (SERVICES, b'{"metadata":{"name":"a","namespace":"other"}}', "application/json", 400),
        (SERVICES, b"x" * (3 * 1024 * 1024 + 1), "application/json", 413),
        (EVENTS, b'{"metadata":{"name":"a"},"message":"' + b"x" * 1_600_000 + b'"}', "application/json", 413),
        (SLICES, b'{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[{}]}', "application/json", 422),
        ("/api/v1/namespaces/default/nonsense", b"{}", "application/json", 404),
        (f"{SERVICES}/a/nonsense", b"{}", "application/json", 404),
    ],
)
async def test_bad_requests_are_answered_with_a_status(path, body, content_type, code):
    async with api_bed() as bed:
        got, told = await bed.call("POST", path, body, Content_Type=content_type)
        assert (got, told["kind"], told["code"]) == (code, "Status", code)


async def test_yaml_bodies_and_answers():
    async with api_bed() as bed:
        body = b"metadata: {name: y}\nspec:\n  ports:\n  - port: 80\n"
        code, _ = await bed.call("POST", SERVICES, body, Content_Type="application/yaml")
        assert code == 201
        async with bed.client.get(f"{SERVICES}/y", headers={"Accept": "application/yaml"}) as answer:
            assert (await answer.text()).startswith("kind: Service\n")
        async with bed.client.get(
            f"{SERVICES}/y", headers={"Accept": "application/vnd.kubernetes.protobuf"}
        ) as answer:
            assert answer.status == 406


async def test_slices_do_not_point_at_the_node_itself():
    async with api_bed() as bed:
        for address in ("127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "fd00::1", "10.0.0.256"):
            body = {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": [address]}]}
            assert "endpoints[0].addresses[0]: Invalid value" in await bed.refused(SLICES, body)


async def test_a_dry_run_changes_nothing():
    async with api_bed() as bed:
        code, _ = await bed.call("POST", f"{SERVICES}?dryRun=All", service("a"))
        assert code == 201
        assert (await bed.call("GET", f"{SERVICES}/a"))[0] == 404


async def test_discovery_names_what_is_served():
    async with api_bed() as bed:
        _, listed = await bed.call("GET", "/api/v1")
        assert {"services", "services/status", "pods/binding"} <= {r["name"] for r in listed["resources"]}
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
        async with bed.client.get("/apis", headers={"Accept": accept}) as answer:
            assert "as=APIGroupDiscoveryList" in answer.headers["Content-Type"]
            groups = [item["metadata"]["name"] for item in (await answer.json(content_type=None))["items"]]
        reviews = ["authentication.k8s.io", "authorization.k8s.io"]
        assert groups == ["discovery.k8s.io", "coordination.k8s.io", "networking.k8s.io", "apps", *reviews]
        _, index = await bed.call("GET", "/openapi/v3")
        _, document = await bed.call("GET", index["paths"]["apis/apps/v1"]["serverRelativeURL"])
        patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
        assert "fieldValidation" in [parameter["name"] for parameter in patch["parameters"]]


async def test_a_store_that_is_away_is_a_503_and_no_end(caplog):
    async with api_bed() as bed:
        real = bed.registry.store.range

        async def gone(_request):
            raise Unavailable("no route")

        bed.registry.store.range = gone
        for path in (f"{SERVICES}/kubernetes", "/api/v1/namespaces", "/readyz/"):
            code, told = await bed.call("GET", path)
            assert (code, told["reason"]) == (503, "ServiceUnavailable")
        assert (await bed.client.get("/livez")).status == 200
        bed.registry.store.range = real
        assert (await bed.call("GET", f"{SERVICES}/kubernetes"))[0] == 200
        assert len([r for r in caplog.records if "does not answer" in r.message]) == 1
