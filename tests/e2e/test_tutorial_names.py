"""The names of the tutorial's Services as a pod sees them: the issue's point 3, with the real dig and curl."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab_bed import PROJECT, Labs
from tests.waiting import until

pytestmark = pytest.mark.e2e

MANIFESTS = PROJECT / "tests/manifests"
LAB = "names"


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    labs = Labs(tmp_path_factory.mktemp("names") / "labs")
    labs.up(LAB)
    for manifest in sorted(MANIFESTS.glob("*.yaml")):
        labs.kubectl(LAB, "apply", "-f", str(manifest))
    labs.kubectl(LAB, "rollout", "status", "deployment/nginx-deployment", "--timeout=60s")
    yield labs
    labs.run("down", LAB)


class Pod:
    """One of the web servers, as a place to ask from."""

    def __init__(self, labs: Labs) -> None:
        self._labs = labs
        name = labs.kubectl(LAB, "get", "pods", "-l", "app=nginx", "-o", "jsonpath={.items[0].metadata.name}")
        self._target = f"pod/{name}"

    def run(self, *command: str) -> str:
        return self._labs.exec(LAB, self._target, *command).stdout

    def dig(self, *words: str) -> list[str]:
        return sorted(self.run("dig", "+short", *words).splitlines())


@pytest.fixture(scope="module")
def pod(labs: Labs) -> Pod:
    return Pod(labs)


def cluster_ip(labs: Labs, name: str, namespace: str = "default") -> str:
    return labs.kubectl(LAB, "get", "svc", "-n", namespace, name, "-o", "jsonpath={.spec.clusterIP}")


@pytest.mark.parametrize("name", ["nginx-service", "nginx-sticky", "myservice", "mydb"])
def test_a_cluster_ip_both_ways(labs: Labs, pod: Pod, name: str) -> None:
    address, full = cluster_ip(labs, name), f"{name}.default.svc.cluster.local"
    assert pod.dig(full) == [address]
    assert pod.dig("+tcp", full) == [address]
    assert pod.dig("+search", name) == [address]
    assert pod.dig("-x", address) == [f"{full}."]
    assert pod.dig(full, "AAAA") == []


def test_the_resolver_itself_has_the_address_that_was_asked_for(pod: Pod) -> None:
    assert pod.dig("kube-dns.kube-system.svc.cluster.local") == ["10.96.0.10"]


def test_the_srv_record_of_a_named_port(pod: Pod) -> None:
    full = "nginx-service.default.svc.cluster.local"
    assert pod.dig(f"_nginx-port._tcp.{full}", "SRV") == [f"0 100 80 {full}."]
    assert pod.dig("_dns._udp.kube-dns.kube-system.svc.cluster.local", "SRV") == [
        "0 100 53 kube-dns.kube-system.svc.cluster.local."
    ]


def test_a_headless_service_is_all_ready_pods(labs: Labs, pod: Pod) -> None:
    def pods() -> list[str]:
        listed = labs.kubectl(LAB, "get", "pods", "-l", "app=nginx", "-o", "jsonpath={.items[*].status.podIP}")
        return sorted(listed.split())

    assert len(pods()) == 4
    assert pod.dig("nginx-headless.default.svc.cluster.local") == pods()
    labs.kubectl(LAB, "scale", "deployment", "nginx-deployment", "--replicas=6")
    until(lambda: pod.dig("nginx-headless.default.svc.cluster.local") == pods() and len(pods()) == 6, "six")


def test_an_external_name_is_a_cname(pod: Pod) -> None:
    assert pod.dig("search.default.svc.cluster.local") == ["search.example.com."]
    assert pod.dig("search.default.svc.cluster.local", "CNAME") == ["search.example.com."]


def test_what_does_not_exist_is_told_apart_from_what_has_no_such_record(pod: Pod) -> None:
    missing = pod.run("dig", "nope.default.svc.cluster.local")
    assert "status: NXDOMAIN" in missing
    assert "SOA\tns.dns.cluster.local." in missing
    no_data = pod.run("dig", "nginx-service.default.svc.cluster.local", "AAAA")
    assert "status: NOERROR" in no_data
    assert "SOA\tns.dns.cluster.local." in no_data


def test_http_by_the_short_name(pod: Pod) -> None:
    assert "pod: nginx-deployment-" in pod.run("curl", "-sS", "--max-time", "5", "http://nginx-service")


def test_a_sticky_service_keeps_a_client_with_its_pod(pod: Pod) -> None:
    answers = {
        pod.run("curl", "-sS", "--max-time", "5", "http://nginx-sticky:8080").split("\n")[0] for _ in range(15)
    }
    assert len(answers) == 1


def test_a_service_without_endpoints_refuses_at_once(labs: Labs, pod: Pod) -> None:
    done = labs.exec(LAB, "node1", "curl", "-sS", "--max-time", "5", f"http://{cluster_ip(labs, 'myservice')}/")
    assert done.returncode == 7, done.stderr


def test_the_manifests_are_the_tutorials() -> None:
    shipped = PROJECT / "kubeproxy/lab/manifests"
    for name in ("nginx-deployment.yaml", "nginx-service.yaml"):
        assert Path(shipped / name).read_text().endswith((MANIFESTS / name).read_text())
