"""The kubelet's hold on its pods: what one pod does must not reach the others."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.lab import kubelet
from kubeproxy.lab.podspec import LabPod, decode_lab_pod

pytestmark = pytest.mark.unit


class Worker:
    """Stands for a PodWorker; the first for a pod named in ``faulty`` raises."""

    faulty: ClassVar[set[str]] = set()
    made: ClassVar[list[str]] = []

    def __init__(self, pod: LabPod, _node: object) -> None:
        self.pod = pod
        self.uid = pod.metadata.uid
        self.title = pod.metadata.name
        self.made.append(self.title)

    def heir(self) -> "Worker":
        return Worker(self.pod, None)

    async def run(self) -> None:
        if self.title in self.faulty:
            self.faulty.discard(self.title)
            raise KeyError("value")
        await asyncio.Event().wait()


def pod(name: str) -> LabPod:
    meta = {"name": name, "namespace": "default", "uid": name}
    return decode_lab_pod(msgspec.json.encode({"metadata": meta, "spec": {"containers": [{"name": "c"}]}}))


async def test_a_fault_in_one_pod_is_shown_and_ends_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubelet, "PodWorker", Worker)
    monkeypatch.setattr(Worker, "made", [])
    monkeypatch.setattr(Worker, "faulty", {"bad"})
    clock = ManualClock()
    node: Any = SimpleNamespace(clock=clock, client=None, name="n1")
    loops = kubelet.Kubelet(node)
    async with asyncio.TaskGroup() as tasks:
        loops._pods_changed({("default", name): pod(name) for name in ("bad", "good")})
        for name in ("bad", "good"):
            loops._attend(("default", name), tasks)
        await settle()
        assert Worker.made == ["bad", "good"]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        await clock.step(kubelet.FAULT_PAUSE_SECONDS)
        await settle()
        assert Worker.made == ["bad", "good", "bad"]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
