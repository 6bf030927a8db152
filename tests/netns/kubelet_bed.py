"""One node in namespaces of its own: API server, lab controllers and a kubelet, for tests of what pods really get.

The node is a network, mount and PID namespace that ends with its first process, so nothing outlives a test.
Programs inside are started by nsenter and ended by the number they have there.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.waiting import until

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
SERVER = "http://127.0.0.1:8001"
NODE = "n1"
SUBNET_ENV = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n"
SETUP = """
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir /run/netns
ip link set lo up && ip address add 192.0.2.11/32 dev lo
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready; exec sleep 600
"""


class KubeletBed:
    """The node and what runs on it; ``directory`` is seen at the same path inside."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.state = directory / "kubelet"
        self._stack = stack
        self._kubelets = itertools.count(1)
        mapped = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        unshare = ["unshare", *mapped, "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        holder = subprocess.Popen([*unshare, "sh", "-c", SETUP], stdout=subprocess.PIPE, text=True)
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()
        self._enter = ["nsenter", "--target", children.split()[0], "--mount", "--net", "--pid"]
        if mapped:
            self._enter += ["--user", "--preserve-credentials"]
        (directory / "subnet.env").write_text(SUBNET_ENV)
        self._start("apiserver", "kubeproxy", "apiserver", f"--store=sqlite:{directory}/store.db", "--port=8001")
        until(lambda: self.run("curl", "-s", f"{SERVER}/healthz") == "ok")
        self._start("controllers", "kubeproxy.lab.controllers", f"--server={SERVER}")
        self.start_kubelet()

    def _start(self, log: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{log}.log").open("wb") as output:
            argv = [*self._enter, sys.executable, "-m", module, *arguments]
            process = subprocess.Popen(argv, stdout=output, stderr=output, cwd=PROJECT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def start_kubelet(self) -> None:
        """Start a kubelet, an heir if one ran before."""
        self.kubelet = self._start(
            f"kubelet{next(self._kubelets)}",
            "kubeproxy.lab.kubelet",
            *(f"--node={NODE}", "--node-ip=192.0.2.11", f"--server={SERVER}"),
            *(f"--subnet-file={self.directory}/subnet.env", f"--state-dir={self.state}"),
        )

    def end_kubelet(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the kubelet a signal that ends it: the child of nsenter is it."""
        child = Path(f"/proc/{self.kubelet.pid}/task/{self.kubelet.pid}/children").read_text().split()[0]
        os.kill(int(child), number)
        self.kubelet.wait()

    def run(self, *argv: str, check: bool = False) -> str:
        """Run a command on the node and return what it printed."""
        found = subprocess.run([*self._enter, *argv], capture_output=True, text=True, check=False, timeout=60)
        assert not check or found.returncode == 0, found.stderr
        return found.stdout

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl on the node."""
        kubectl = str(Path(sys.executable).parent / "kubectl")
        argv = [*self._enter, kubectl, "-s", SERVER, *arguments]
        found = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert found.returncode == 0, found.stderr
        return found.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(objects))

    def pod(self, name: str) -> dict[str, Any]:
        """Return a pod as the API has it, {} when there is none."""
        found: dict[str, Any] = json.loads(
            self.kubectl("get", "pod", name, "-o", "json", "--ignore-not-found") or "{}"
        )
        return found

    def ready(self, name: str) -> str:
        """Return the pod's address once it is ready, else ""."""
        status = self.pod(name).get("status", {})
        conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
        return str(status["podIP"]) if conditions.get("Ready") == "True" else ""

    def record(self, name: str) -> dict[str, Any]:
        """Return what the kubelet has written down of a pod."""
        found: dict[str, Any] = json.loads((self.state / "pods" / f"default_{name}" / "pod.json").read_text())
        return found


@contextlib.contextmanager
def kubelet_bed() -> Iterator[KubeletBed]:
    """Make a node; remove it in the end."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubelet-bed-")))
        yield KubeletBed(directory, stack)


def pod(name: str, containers: Sequence[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    """Return a Pod."""
    named = [{"name": f"c{number}", "image": "x", **each} for number, each in enumerate(containers)]
    meta = {"name": name, "namespace": "default", "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": named, **spec}}
