"""The official Python client against a real server: it reads all that we answer, and resumes its watches."""

import datetime
import threading
import time
from collections.abc import Iterator

import pytest
from kubernetes import client, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.informer import SharedInformer
from kubernetes.leaderelection.electionconfig import Config
from kubernetes.leaderelection.leaderelection import LeaderElection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from tests.e2e.test_kubectl_commands import Cluster

pytestmark = pytest.mark.e2e

SPACE = "default"
NOW = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[client.ApiClient]:
    cluster = Cluster(tmp_path_factory.mktemp("python"))
    cluster.start()
    with client.ApiClient(client.Configuration(host=cluster.url)) as connected:
        yield connected
    assert cluster.stop() == 0
    assert "Traceback" not in cluster.log()


def meta(name: str, **labels: str) -> client.V1ObjectMeta:
    return client.V1ObjectMeta(name=name, labels=labels or None)


def template(name: str) -> client.V1PodTemplateSpec:
    return client.V1PodTemplateSpec(
        metadata=meta("", app=name),
        spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="nginx")]),
    )


def selected(name: str) -> dict:
    return {"selector": client.V1LabelSelector(match_labels={"app": name}), "template": template(name)}


def objects() -> list[tuple[type, str, object]]:
    """Of each kind: the API class, the suffix of its methods, and an object."""
    ready = client.V1NodeCondition(type="Ready", status="True")
    port = client.CoreV1EndpointPort(port=80)
    subset = client.V1EndpointSubset(addresses=[client.V1EndpointAddress(ip="10.0.0.1")], ports=[port])
    about = client.V1ObjectReference(kind="Pod", namespace=SPACE, name="p")
    endpoint = client.V1Endpoint(addresses=["10.0.0.1"])
    slice_ = client.V1EndpointSlice(metadata=meta("x"), address_type="IPv4", endpoints=[endpoint])
    lease = client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15, renew_time=NOW)
    return [
        (client.CoreV1Api, "namespace", client.V1Namespace(metadata=meta("x"))),
        (
            client.CoreV1Api,
            "node",
            client.V1Node(metadata=meta("x"), status=client.V1NodeStatus(conditions=[ready])),
        ),
        (client.CoreV1Api, "namespaced_pod", client.V1Pod(metadata=meta("x"), spec=template("x").spec)),
        (
            client.CoreV1Api,
            "namespaced_service",
            client.V1Service(metadata=meta("x"), spec=client.V1ServiceSpec(ports=[client.V1ServicePort(port=80)])),
        ),
        (client.CoreV1Api, "namespaced_endpoints", client.V1Endpoints(metadata=meta("e"), subsets=[subset])),
        (client.CoreV1Api, "namespaced_config_map", client.V1ConfigMap(metadata=meta("x"), data={"a": "b"})),
        (
            client.CoreV1Api,
            "namespaced_event",
            client.CoreV1Event(metadata=meta("x"), involved_object=about, first_timestamp=NOW),
        ),
        (client.DiscoveryV1Api, "namespaced_endpoint_slice", slice_),
        (client.CoordinationV1Api, "namespaced_lease", client.V1Lease(metadata=meta("x"), spec=lease)),
        (
            client.AppsV1Api,
            "namespaced_deployment",
            client.V1Deployment(metadata=meta("x"), spec=client.V1DeploymentSpec(**selected("x"))),
        ),
        (
            client.AppsV1Api,
            "namespaced_replica_set",
            client.V1ReplicaSet(metadata=meta("x"), spec=client.V1ReplicaSetSpec(**selected("y"))),
        ),
    ]


@pytest.mark.parametrize(("api_class", "suffix", "obj"), objects(), ids=[row[1] for row in objects()])
def test_every_kind_is_created_read_patched_replaced_listed_and_deleted(api, api_class, suffix, obj):
    found, where = api_class(api), (SPACE,) if suffix.startswith("namespaced_") else ()
    name = obj.metadata.name

    def call(verb, *arguments, **options):
        return getattr(found, f"{verb}_{suffix}")(*arguments, *where, *options.pop("body", ()), **options)

    dry = call("create", body=(obj,), dry_run="All")
    with pytest.raises(ApiException, match="not found"):
        call("read", name)
    made = call("create", body=(obj,))
    assert (dry.metadata.name, made.metadata.name) == (name, name)
    with pytest.raises(ApiException) as refused:
        call("create", body=(obj,))
    assert refused.value.status == 409
    # A dict is sent as a strategic merge patch, a list as a JSON patch.
    patched = call("patch", name, body=({"metadata": {"labels": {"a": "b"}}},))
    assert patched.metadata.labels["a"] == "b"
    step = [{"op": "add", "path": "/metadata/labels/c", "value": "d"}]
    patched = call("patch", name, body=(step,))
    assert patched.metadata.labels["c"] == "d"
    with pytest.raises(ApiException) as refused:
        call("replace", name, body=(made,))
    assert (refused.value.status, "object has been modified" in refused.value.body) == (409, True)
    current = call("read", name)
    current.metadata.annotations = {"n": "o"}
    assert call("replace", name, body=(current,)).metadata.annotations == {"n": "o"}
    assert name in [item.metadata.name for item in call("list", label_selector="a=b,c").items]
    call("delete", name, propagation_policy="Background")
    end = time.monotonic() + 10
    while name in [item.metadata.name for item in call("list").items]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_scale_status_and_pages(api):
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    apps.create_namespaced_deployment(
        SPACE, client.V1Deployment(metadata=meta("s"), spec=client.V1DeploymentSpec(**selected("s")))
    )
    scale = apps.read_namespaced_deployment_scale("s", SPACE)
    scale.spec.replicas = 4
    assert apps.replace_namespaced_deployment_scale("s", SPACE, scale).spec.replicas == 4
    status = {"status": {"replicas": 3}}
    assert apps.patch_namespaced_deployment_status("s", SPACE, status).status.replicas == 3
    for number in range(5):
        core.create_namespaced_config_map(SPACE, client.V1ConfigMap(metadata=meta(f"p{number}", page="yes")))
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(SPACE, limit=2, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert names == [f"p{number}" for number in range(5)]
    with pytest.raises(ApiException) as late:
        core.list_namespaced_config_map(SPACE, resource_version="99999", resource_version_match="Exact")
    assert late.value.status == 504
    core.delete_collection_namespaced_config_map(SPACE, label_selector="page=yes")
    assert core.list_namespaced_config_map(SPACE).items == []


def test_a_watch_resumes_where_it_was_and_says_when_it_cannot(api):
    core = client.CoreV1Api(api)
    start = core.list_namespaced_config_map(SPACE).metadata.resource_version
    for name in "abc":
        core.create_namespaced_config_map(SPACE, client.V1ConfigMap(metadata=meta(f"w{name}")))
    seen = []
    # The server ends the stream each second; the client goes on by itself from the last revision it saw.
    stream = watch.Watch()
    writer = threading.Timer(1.5, core.delete_collection_namespaced_config_map, (SPACE,))
    writer.start()
    for event in stream.stream(core.list_namespaced_config_map, SPACE, resource_version=start, timeout_seconds=4):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 6:
            stream.stop()
    writer.join()
    assert seen == [(kind, f"w{name}") for kind in ("ADDED", "DELETED") for name in "abc"]
    with pytest.raises(ApiException) as gone:
        for _ in watch.Watch().stream(core.list_namespaced_config_map, SPACE, resource_version="99999"):
            pass
    assert gone.value.status == 410


def test_the_dynamic_client_discovers_and_writes(api):
    dynamic = DynamicClient(api)
    services = dynamic.resources.get(api_version="v1", kind="Service")
    assert services.name == "services"
    body = {"metadata": {"name": "d"}, "spec": {"ports": [{"port": 80}]}}
    assert services.create(body=body, namespace=SPACE).spec.type == "ClusterIP"
    merge = "application/merge-patch+json"
    changed = services.patch({"spec": {"type": "NodePort"}}, "d", SPACE, content_type=merge)
    assert changed.spec.ports[0].nodePort
    services.delete("d", SPACE)
    deployments = dynamic.resources.get(api_version="apps/v1", kind="Deployment")
    assert "scale" in deployments.subresources


@pytest.mark.parametrize("lock", [LeaseLock, ConfigMapLock])
def test_the_clients_leader_election_has_one_leader(api, lock):
    def candidate(name):
        held = lock("election", SPACE, name)
        held.api_instance = type(held.api_instance)(api)
        return LeaderElection(Config(held, 15, 10, 1, onstarted_leading=print, onstopped_leading=print))

    first, second = candidate("first"), candidate("second")
    told = [one.try_acquire_or_renew() for one in (first, second, first, second)]
    assert [bool(outcome) for outcome in told] == [True, False, True, False]


def test_the_clients_informer_follows(api):
    core = client.CoreV1Api(api)
    informer = SharedInformer(core.list_namespaced_config_map, namespace=SPACE, label_selector="inf=yes")

    def until(names):
        end = time.monotonic() + 10
        while {obj.metadata.name for obj in informer.cache.list()} != names:
            assert time.monotonic() < end
            time.sleep(0.02)

    core.create_namespaced_config_map(SPACE, client.V1ConfigMap(metadata=meta("i1", inf="yes")))
    informer.start()
    until({"i1"})
    core.create_namespaced_config_map(SPACE, client.V1ConfigMap(metadata=meta("i2", inf="yes")))
    until({"i1", "i2"})
    core.patch_namespaced_config_map("i1", SPACE, {"metadata": {"labels": {"inf": None}}})
    until({"i2"})
    core.delete_collection_namespaced_config_map(SPACE, label_selector="inf=yes")
    until(set())
    informer.stop()
