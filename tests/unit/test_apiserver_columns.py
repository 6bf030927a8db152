"""The STATUS column of `kubectl get pods`: upstream's printPod, as a table of pods."""

from typing import Any

import pytest

from kubeproxy.apiserver.columns import POD
from kubeproxy.apiserver.routes import place
from kubeproxy.apiserver.status import ApiProblem

pytestmark = pytest.mark.unit

STATUS = next(column for column in POD if column.name == "Status")


def state(**kinds: Any) -> dict[str, Any]:
    return {"state": kinds}


DONE = state(terminated={"exitCode": 0, "reason": "Completed"})


@pytest.mark.parametrize(
    ("inits", "containers", "phase", "shown"),
    [
        ([], [], "Pending", "Pending"),
        ([], [state(running={})], "Running", "Running"),
        ([], [state(waiting={"reason": "CrashLoopBackOff"})], "Running", "CrashLoopBackOff"),
        ([], [state(waiting={"reason": "ContainerCreating"})], "Pending", "ContainerCreating"),
        ([state(running={}), state(waiting={"reason": "PodInitializing"})], [], "Pending", "Init:0/2"),
        ([DONE, state(running={})], [], "Pending", "Init:1/2"),
        ([state(terminated={"exitCode": 1, "reason": "Error"})], [], "Pending", "Init:Error"),
        ([state(terminated={"exitCode": 3})], [], "Pending", "Init:ExitCode:3"),
        ([state(waiting={"reason": "CrashLoopBackOff"})], [], "Pending", "Init:CrashLoopBackOff"),
        ([DONE, DONE], [state(running={})], "Running", "Running"),
    ],
)
def test_pod_status(inits: list[Any], containers: list[Any], phase: str, shown: str) -> None:
    status = {"phase": phase, "initContainerStatuses": inits, "containerStatuses": containers}
    pod = {"metadata": {}, "spec": {"initContainers": inits, "containers": [{}]}, "status": status}
    assert STATUS.cell(pod, 0.0) == shown
    pod["metadata"] = {"deletionTimestamp": "2026-11-21T00:00:00Z"}
    assert STATUS.cell(pod, 0.0) == "Terminating"


@pytest.mark.parametrize("subresource", ["log", "exec", "attach", "portforward"])
def test_what_needs_a_kubelet_says_where_else_to_go(subresource: str) -> None:
    with pytest.raises(ApiProblem, match="kubeproxy lab exec LAB pod/web-1"):
        place(["api", "v1", "namespaces", "default", "pods", "web-1", subresource])
