"""What a pod's status says, from what its containers do. Pure; phases and reasons are the kubelet's own words."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kubeproxy.controllers.objects import Condition, shape
from kubeproxy.lab.podspec import LabPod


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a container's process ended."""

    exit_code: int
    started_at: str
    finished_at: str
    reason: str = ""
    message: str = ""

    @property
    def as_state(self) -> dict[str, Any]:
        """The API's ContainerStateTerminated."""
        signal = {"signal": self.exit_code - 128} if self.exit_code > 128 else {}
        return {
            "exitCode": self.exit_code,
            "reason": self.reason or ("Completed" if self.exit_code == 0 else "Error"),
            "startedAt": self.started_at,
            "finishedAt": self.finished_at,
            **signal,
            **({"message": self.message} if self.message else {}),
        }


class ContainerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One container now: running (``pid``), ended for good (``ended``), or waiting for ``reason``."""

    name: str
    image: str = ""
    pid: int = 0
    started_at: str = ""
    ended: Ended | None = None
    reason: str = "ContainerCreating"
    message: str = ""
    restarts: int = 0
    last: Ended | None = None
    started: bool = False
    """The startup probe, if there is one, has passed."""
    ready: bool = False

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return bool(self.pid)


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the kubelet knows of a pod besides its containers."""

    address: str = ""
    host_ip: str
    started_at: str
    initialized: bool
    init: Sequence[ContainerReport] = ()
    containers: Sequence[ContainerReport] = ()


def pod_status(
    pod: LabPod, facts: PodFacts, previous: Mapping[str, Condition], now: str
) -> tuple[dict[str, Any], dict[str, Condition]]:
    """Return the status to write, and its conditions by type; a condition that stays keeps its time."""
    phase = pod_phase(pod, facts)
    conditions = {
        condition.type: _with_time(condition, previous.get(condition.type), now)
        for condition in _conditions(facts, phase)
    }
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": [shape(condition) for condition in conditions.values()],
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "startTime": facts.started_at,
        "containerStatuses": [_container_status(each) for each in facts.containers],
        "qosClass": "BestEffort",
    }
    if facts.init:
        status["initContainerStatuses"] = [_container_status(each) for each in facts.init]
    if facts.address:
        status["podIP"] = facts.address
        status["podIPs"] = [{"ip": facts.address}]
    return status, conditions


def pod_phase(pod: LabPod, facts: PodFacts) -> str:
    """Return Pending, Running, Succeeded or Failed (upstream: kubelet_pods.go getPhase)."""
    if any(each.ended and each.ended.exit_code for each in facts.init) and pod.spec.restart_policy == "Never":
        return "Failed"
    if not facts.initialized:
        return "Pending"
    ended = [each.ended for each in facts.containers if each.ended]
    if len(ended) == len(facts.containers):
        return "Succeeded" if all(each.exit_code == 0 for each in ended) else "Failed"
    if any(each.is_running or each.ended or each.last for each in facts.containers):
        return "Running"
    return "Pending"


def _conditions(facts: PodFacts, phase: str) -> list[Condition]:
    initialized = Condition(type="Initialized", status="True")
    if not facts.initialized:
        waiting = " ".join(each.name for each in facts.init if not (each.ended and each.ended.exit_code == 0))
        initialized = Condition(
            type="Initialized",
            status="False",
            reason="ContainersNotInitialized",
            message=f"containers with incomplete status: [{waiting}]",
        )
    unready = " ".join(each.name for each in facts.containers if not each.ready)
    reason = message = None
    if phase in ("Succeeded", "Failed"):
        reason = f"Pod{phase}" if phase == "Failed" else "PodCompleted"
    elif unready:
        reason, message = "ContainersNotReady", f"containers with unready status: [{unready}]"
    verdict = "True" if reason is None and facts.initialized else "False"
    running = any(each.is_running for each in (*facts.init, *facts.containers))
    return [
        Condition(type="PodReadyToStartContainers", status="True" if facts.address and running else "False"),
        initialized,
        Condition(type="Ready", status=verdict, reason=reason, message=message),
        Condition(type="ContainersReady", status=verdict, reason=reason, message=message),
        Condition(type="PodScheduled", status="True"),
    ]


def _with_time(condition: Condition, previous: Condition | None, now: str) -> Condition:
    same = previous is not None and previous.status == condition.status and previous.last_transition_time
    return msgspec.structs.replace(
        condition, last_transition_time=previous.last_transition_time if same and previous else now
    )


def _container_status(each: ContainerReport) -> dict[str, Any]:
    state: dict[str, Any]
    if each.is_running:
        state = {"running": {"startedAt": each.started_at}}
    elif each.ended is not None:
        state = {"terminated": each.ended.as_state}
    else:
        state = {"waiting": {"reason": each.reason, **({"message": each.message} if each.message else {})}}
    return {
        "name": each.name,
        "state": state,
        "lastState": {"terminated": each.last.as_state} if each.last else {},
        "ready": each.ready,
        "started": each.started,
        "restartCount": each.restarts,
        "image": each.image,
        "imageID": "",
        **({"containerID": f"lab://{each.pid}"} if each.is_running else {}),
    }
