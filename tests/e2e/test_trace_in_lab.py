"""`kubeproxy trace` on the nodes of a lab: pods by name, by every node's own agent, and what the kernel does."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.lab_bed import PROJECT, Labs

pytestmark = pytest.mark.e2e

MANIFESTS = PROJECT / "kubeproxy/lab/manifests"
TRACE = (sys.executable, "-m", "kubeproxy", "trace")


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def labs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    labs = Labs(tmp_path_factory.mktemp("trace") / "kubeproxy/labs")
    labs.up("trace", "--mode", request.param)
    try:
        for name in ("nginx-deployment.yaml", "nginx-service.yaml"):
            labs.kubectl("trace", "apply", "-f", str(MANIFESTS / name))
        labs.kubectl("trace", "rollout", "status", "deployment/nginx-deployment", "--timeout=60s")
        patch = '{"spec": {"type": "NodePort", "externalTrafficPolicy": "Local"}}'
        labs.kubectl("trace", "patch", "service", "nginx-service", "-p", patch)
        yield labs
    finally:
        labs.run("down", "trace")


def pods(labs: Labs) -> dict[str, str]:
    """Names of the pods, and their nodes."""
    listed = json.loads(labs.kubectl("trace", "get", "pods", "-l", "app=nginx", "-o", "json"))
    return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in listed["items"]}


def trace(labs: Labs, node: str, *words: str) -> dict[str, Any]:
    found = labs.exec("trace", node, *TRACE, *words, "-o", "json")
    assert found.returncode == 0, found.stdout + found.stderr
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


def test_every_pod_reaches_the_service_as_its_node_says(labs: Labs) -> None:
    found = pods(labs)
    assert len(found) > 1
    for pod, node in found.items():
        answer = trace(labs, node, f"pod/{pod}", "service/nginx-service", "--live")
        assert (answer["outcome"], answer["packet"]["origin"]) == ("FORWARD", "pod")
        assert {each["pod"] for each in answer["endpoints"]} == set(found)
        hairpin = [each["pod"] for each in answer["endpoints"] if each["masquerade"]]
        assert hairpin == [pod]
        assert answer["live"]["differences"] == [], answer["live"]


def test_a_client_outside_reaches_the_pods_of_the_node_that_it_asks(labs: Labs) -> None:
    port = labs.kubectl("trace", "get", "service", "nginx-service", "-o", "jsonpath={.spec.ports[0].nodePort}")
    for node in set(pods(labs).values()):
        answer = trace(labs, node, "outside", f"{node}:{port}", "--live")
        own = {pod for pod, where in pods(labs).items() if where == node}
        assert {each["pod"] for each in answer["endpoints"] if not each["left_out"]} == own
        assert answer["live"]["differences"] == [], answer["live"]
        assert answer["findings"] == []
