"""The real kubectl against a real server process: what a person types works, and what is wrong is told clearly."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.kubectl import kubectl_binary
from tests.kubectl_bed import MANIFESTS, ROOT, Cluster

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    yield cluster
    if cluster.process is not None and cluster.process.poll() is None:
        assert cluster.stop() == 0
    assert "Traceback" not in cluster.log()


@pytest.fixture
def space(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"t{time.time_ns()}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_the_manifests_apply_and_apply_again(cluster, space):
    for name in ("nginx-deployment", "nginx-service", "init-services"):
        path = str(MANIFESTS / f"{name}.yaml")
        assert "created" in cluster.kubectl("apply", "-n", space, "-f", path)
        assert "unchanged" in cluster.kubectl("apply", "-n", space, "-f", path)
    changed = (
        (MANIFESTS / "nginx-deployment.yaml")
        .read_text()
        .replace("1.7.9", "1.9.1")
        .replace("replicas: 4", "replicas: 2")
    )
    assert "configured" in cluster.kubectl("apply", "-n", space, "-f", "-", text=changed)
    found = json.loads(cluster.kubectl("get", "deploy", "nginx-deployment", "-n", space, "-o", "json"))
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:1.9.1"
    assert found["spec"]["replicas"] == 2
    assert found["metadata"]["generation"] == 2


def test_more_services_apply(cluster):
    assert cluster.kubectl("apply", "-f", str(MANIFESTS / "more-services.yaml")).count("created") == 4
    assert "10.96.0.10" in cluster.kubectl("get", "svc", "kube-dns", "-n", "kube-system")
    cluster.kubectl("delete", "-f", str(MANIFESTS / "more-services.yaml"))


def test_tables_describe_scale_and_edit_commands(cluster, space):
    ns = ("-n", space)
    cluster.kubectl("create", "deployment", "web", "--image=nginx", "--port=80", "--replicas=2", *ns)
    assert "service/web exposed" in cluster.kubectl("expose", "deployment", "web", "--type=NodePort", *ns)
    wide = cluster.kubectl("get", "svc,deploy,endpointslices", "-o", "wide", *ns)
    assert "NodePort" in wide
    assert "app=web" in wide
    assert "scaled" in cluster.kubectl("scale", "deployment", "web", "--replicas=6", *ns)
    assert "0/6" in cluster.kubectl("get", "deploy", "web", *ns)
    assert "6 desired" in cluster.kubectl("describe", "deployment", "web", *ns)
    assert "NodePort:" in cluster.kubectl("describe", "svc", "web", *ns)
    cluster.kubectl("label", "svc", "web", "tier=front", *ns)
    cluster.kubectl("annotate", "svc", "web", 'note=a "quoted" note', *ns)
    assert "web" in cluster.kubectl("get", "svc", "-l", "tier=front", *ns)
    assert cluster.kubectl("get", "svc", "-l", "tier!=front", *ns) == ""
    cluster.kubectl("set", "image", "deployment/web", "nginx=nginx:2", *ns)
    cluster.kubectl("rollout", "restart", "deployment/web", *ns)
    cluster.kubectl("patch", "svc", "web", "--type=json", "-p", '[{"op":"remove","path":"/spec/selector"}]', *ns)
    cluster.kubectl("wait", "--for=jsonpath={.spec.replicas}=6", "deploy/web", "--timeout=5s", *ns)
    cluster.environment["KUBE_EDITOR"] = "sed -i s/front/back/"
    assert "edited" in cluster.kubectl("edit", "svc", "web", *ns)
    assert "deleted" in cluster.kubectl("delete", "svc", "web", *ns)


def test_typed_creates_send_protobuf_and_are_understood(cluster, space):
    ns = ("-n", space)
    cluster.kubectl("create", "configmap", "c", "--from-literal=a=b", *ns)
    cluster.kubectl("create", "service", "nodeport", "np", "--tcp=80:http", *ns)
    cluster.kubectl("create", "service", "clusterip", "h", "--clusterip=None", "--tcp=80", *ns)
    cluster.kubectl("create", "service", "externalname", "e", "--external-name=a.example.com", *ns)
    assert json.loads(cluster.kubectl("get", "cm", "c", "-o", "json", *ns))["data"] == {"a": "b"}
    ports = json.loads(cluster.kubectl("get", "svc", "np", "-o", "json", *ns))["spec"]["ports"]
    assert (ports[0]["targetPort"], ports[0]["port"]) == ("http", 80)


def test_nodes_and_pods_are_described(cluster, space):
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": space},
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.168.56.11"}],
        },
    }
    cluster.kubectl("create", "-f", "-", text=json.dumps(node))
    assert "Ready" in cluster.kubectl("get", "nodes", "-o", "wide")
    cluster.kubectl("run", "p", "--image=nginx", "-n", space)
    assert "10.244.0.0/24" in cluster.kubectl("describe", "node", space)
    assert "Image:" in cluster.kubectl("describe", "pod", "p", "-n", space)
    assert "Pending" in cluster.kubectl("get", "pods", "-A")
    cluster.kubectl("delete", "pod", "p", "-n", space)
    cluster.kubectl("delete", "node", space)


def test_what_is_served_can_be_discovered(cluster):
    assert "deploy" in cluster.kubectl("api-resources")
    assert "discovery.k8s.io/v1" in cluster.kubectl("api-versions").splitlines()
    assert "Server Version: v1." in cluster.kubectl("version")
    assert "nodePort" in cluster.kubectl("explain", "service.spec.ports")
    assert "running at" in cluster.kubectl("cluster-info")


def test_a_watch_shows_changes_as_they_come(cluster, space):
    words = [kubectl_binary(), "-s", cluster.url, "get", "svc", "-w", "-n", space]
    watch = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=cluster.environment)
    try:
        cluster.kubectl("create", "service", "clusterip", "a", "--tcp=80", "-n", space)
        assert watch.stdout is not None
        assert watch.stdout.readline().split()[:2] == ["NAME", "TYPE"]
        assert watch.stdout.readline().split()[:2] == ["a", "ClusterIP"]
    finally:
        watch.kill()
        watch.wait()


def service(name: str, spec: str) -> str:
    return f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {spec}}}"


BAD = [
    (service("x", "{type: NodePort, ports: [{port: 80, nodePort: 32111}]}"), "provided port is already allocated"),
    (service("x", "{clusterIP: 10.96.7.7, ports: [{port: 80}]}"), "provided IP is already allocated"),
    (
        service("x", "{clusterIP: 192.0.2.1, ports: [{port: 80}]}"),
        "the provided network does not match the current range",
    ),
    (service("x", '{clusterIP: "fd00::1", ports: [{port: 80}]}'), "not configured on this cluster"),
    (service("x", "{ports: [{port: 65536}]}"), "must be between 1 and 65535, inclusive"),
    (service("1x", "{ports: [{port: 80}]}"), "a DNS-1035 label must consist of"),
    (service('"x\\n*nat"', "{ports: [{port: 80}]}"), "a DNS-1035 label must consist of"),
    (service('"$(reboot)"', "{ports: [{port: 80}]}"), "a DNS-1035 label must consist of"),
    (service("x", "{prots: [{port: 80}]}"), 'strict decoding error: unknown field "spec.prots"'),
    ("this: is: no yaml", "error"),
    (
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x}, addressType: IPv4, "
        "endpoints: [{addresses: [127.0.0.1]}]}",
        "may not be in the loopback range",
    ),
]


def test_bad_input_is_refused_with_a_clear_message_and_changes_nothing(cluster, space):
    first = service("first", "{type: NodePort, clusterIP: 10.96.7.7, ports: [{port: 80, nodePort: 32111}]}")
    cluster.kubectl("apply", "-n", space, "-f", "-", text=first)
    for text, message in BAD:
        assert message in cluster.refused("apply", "-n", space, "-f", "-", text=text)
    assert cluster.kubectl("get", "svc", "-n", space, "-o", "name").split() == ["service/first"]
    assert 'namespaces "nowhere" not found' in cluster.refused(
        "apply", "-n", "nowhere", "-f", "-", text=service("x", "{ports: [{port: 80}]}")
    )


def test_kill_and_restart_lose_nothing(cluster, space):
    cluster.kubectl("create", "service", "clusterip", "kept", "--tcp=80", "-n", space)
    before = cluster.kubectl("get", "svc", "kept", "-o", "json", "-n", space)
    cluster.stop(signal.SIGKILL)
    cluster.start()
    assert cluster.kubectl("get", "svc", "kept", "-o", "json", "-n", space) == before
    cluster.kubectl("create", "service", "clusterip", "more", "--tcp=80", "-n", space)


def test_a_taken_port_ends_with_one_line(cluster):
    arguments = [*cluster.arguments(), "--store=sqlite:" + str(cluster.directory / "other.db")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"Error: cannot listen on 127.0.0.1:{cluster.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (cluster.directory / "other.db").exists()


def test_deleting_a_namespace_waits_until_it_is_empty(cluster):
    cluster.kubectl("create", "namespace", "going")
    cluster.kubectl("create", "deployment", "web", "--image=nginx", "-n", "going")
    assert "deleted" in cluster.kubectl("delete", "namespace", "going", "--timeout=20s")
    assert "NotFound" in cluster.refused("get", "namespace", "going")


def test_what_a_list_shows_can_be_applied_again(cluster, space):
    for name in ("one", "two"):
        cluster.kubectl("create", "configmap", name, "--from-literal=a=b", "-n", space)
    shown = cluster.kubectl("get", "configmaps", "-o", "yaml", "-n", space)
    assert "kind: List" in shown
    cluster.kubectl("delete", "configmap", "one", "-n", space)
    assert "configmap/one created" in cluster.kubectl("apply", "-f", "-", text=shown)


def test_a_kind_that_nobody_serves_is_named(cluster):
    text = "apiVersion: v1\nkind: Servce\nmetadata: {name: a}\n"
    assert 'no matches for kind "Servce" in version "v1"' in cluster.refused("apply", "-f", "-", text=text)


def test_what_a_cluster_needs_is_not_deleted(cluster):
    assert "this namespace may not be deleted" in cluster.refused("delete", "namespace", "default")
