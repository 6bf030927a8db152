"""One node that runs containers of scripts/deploy, without a container engine: what the kubelet would give them.

A container is a process in the node's network namespace and a mount namespace of its own. Its root is this
machine's, read-only, with the volumes mounted: ConfigMaps and the ServiceAccount's token as files, hostPaths
from a folder that stands for the node's disk. It has the capabilities that its manifest asks for and no others,
and cannot write /proc/sys unless it is privileged; its user stays root, without rights. The API server is
reached by TLS through the recording proxy.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.certificates import Authority
from tests.deploy_manifests import Obj
from tests.netns.flannel_bed import ROOT, run
from tests.waiting import until

ADDRESS = "192.168.77.1"
PORT = "6443"
NODE = "node0"
OVERLAID = ("/etc", "/var/lib")
TOKENS = "/run/secrets/kubernetes.io/serviceaccount"


class Node:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disk = directory / "disk"
        self.name = f"dp{os.getpid()}"
        self.requests = directory / "requests"
        self.server = f"https://{ADDRESS}:{PORT}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._containers: list[subprocess.Popen[bytes]] = []
        self._authority = Authority(directory)

    def open(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        run("ip", "-n", self.name, "link", "add", "eth0", "type", "veth", "peer", "name", "wire")
        run("ip", "-n", self.name, "link", "set", "wire", "up")
        run("ip", "-n", self.name, "link", "set", "eth0", "up")
        run("ip", "-n", self.name, "addr", "add", f"{ADDRESS}/24", "dev", "eth0")
        run("ip", "-n", self.name, "route", "add", "default", "via", "192.168.77.254", "dev", "eth0")
        store = f"sqlite:{self.directory}/api.db"
        self._processes.append(
            self._start("api", sys.executable, "-m", "kubeproxy", "apiserver", "--store", store)
        )
        certificate, key = self._authority.issue("api", ADDRESS)
        proxy = (sys.executable, "-m", "tests.netns.recording_proxy", str(certificate), str(key), ADDRESS, PORT)
        self._processes.append(self._start("proxy", *proxy, "http://127.0.0.1:8001", str(self.requests)))
        until(lambda: self.on("curl", "-skm", "2", f"{self.server}/readyz", check=False) == "ok", "the API")

    def stop_containers(self) -> None:
        """End what `start` started, and forget what it asked for."""
        for process in self._containers:
            process.kill()
            process.wait()
        self._containers.clear()
        self.requests.write_text("")

    def close(self) -> None:
        for process in (*self._containers, *self._processes):
            if process.poll() is None:
                process.kill()
                process.wait()
        run("ip", "netns", "delete", self.name, check=False)

    def on(self, *argv: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.name, *argv, check=check)

    def kubectl(self, *arguments: str) -> str:
        return self.on("kubectl", "-s", "http://127.0.0.1:8001", *arguments)

    def apply(self, obj: Obj) -> None:
        file = self.directory / "object.json"
        file.write_text(json.dumps(obj))
        self.kubectl("apply", "-f", str(file))

    def asked(self, account: str) -> set[tuple[str, str, str]]:
        """Return what a ServiceAccount's token has asked for: (verb, group, resource)."""
        lines = [json.loads(line) for line in self.requests.read_text().splitlines()]
        return {
            (verb, group, resource) for token, verb, group, resource in lines if token == f"token-of-{account}"
        }

    # --- containers --------------------------------------------------------------------------------------

    def start(self, workload: Obj, config_maps: dict[str, dict[str, str]]) -> None:
        """Start a DaemonSet's or Deployment's pod here: init containers to their end, then the container."""
        pod = workload["spec"]["template"]["spec"]
        for option in pod.get("securityContext", {}).get("sysctls", ()):
            self.on("sysctl", "-qw", f"{option['name']}={option['value']}")
        for container in pod.get("initContainers", ()):
            self.on(*self._argv(pod, container, config_maps))
        for container in pod["containers"]:
            self._containers.append(self._start(container["name"], *self._argv(pod, container, config_maps)))

    def wait_ready(self, workload: Obj) -> None:
        """Wait until every probe of the pod succeeds."""
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in (container["livenessProbe"]["httpGet"], container["readinessProbe"]["httpGet"]):
            url = f"http://{ADDRESS}:{ports[probe['port']]}{probe['path']}"
            ask = ("curl", "-sm", "2", "-o", "/dev/null", "-w", "%{http_code}", url)
            until(lambda ask=ask: self.on(*ask, check=False) == "200", f"{url}; {self.log(container['name'])}")

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()[-4000:]

    def _argv(self, pod: Obj, container: Obj, config_maps: dict[str, dict[str, str]]) -> list[str]:
        variables = {one["name"]: self._value(one) for one in container.get("env", ())}
        words = [*container["command"], *container.get("args", ())]
        for name, value in variables.items():
            words = [word.replace(f"$({name})", value) for word in words]
        variables |= {"KUBERNETES_SERVICE_HOST": ADDRESS, "KUBERNETES_SERVICE_PORT": PORT}
        mounts = [self._mount(pod, mount, config_maps) for mount in container["volumeMounts"]]
        context = container["securityContext"]
        script = [*self._root(pod["serviceAccountName"]), *mounts, *_read_only(context), 'exec "$@"']
        settings = [f"{name}={value}" for name, value in variables.items()]
        rights = _rights(context)
        return ["sh", "-ec", "\n".join(script), "container", "env", *settings, *rights, *words]

    def _root(self, account: str) -> list[str]:
        overlay = "mkdir -p /run/over{0}/up /run/over{0}/work && mount -t overlay overlay {0} -o "
        overlay += "lowerdir={0},upperdir=/run/over{0}/up,workdir=/run/over{0}/work"
        return [
            "mount -t tmpfs none /run",
            *(overlay.format(place) for place in OVERLAID),
            f"mkdir -p {TOKENS}",
            f"printf %s token-of-{account} > {TOKENS}/token",
            f"cp {self._authority.cafile} {TOKENS}/ca.crt",
        ]

    def _mount(self, pod: Obj, mount: Obj, config_maps: dict[str, dict[str, str]]) -> str:
        (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
        place = shlex.quote(mount["mountPath"])
        if "configMap" in volume:
            source = self.directory / "config" / volume["configMap"]["name"]
            source.mkdir(parents=True, exist_ok=True)
            for name, text in config_maps[volume["configMap"]["name"]].items():
                (source / name).write_text(text)
            return f"mkdir -p {place} && mount --bind {source} {place}"
        path = volume["hostPath"]["path"]
        source = self.disk / path.strip("/")
        if volume["hostPath"].get("type") == "FileOrCreate":
            source.parent.mkdir(parents=True, exist_ok=True)
            source.touch()
            return f"touch {place} && mount --bind {source} {place}"
        source.mkdir(parents=True, exist_ok=True)
        return f"mkdir -p {place} && mount --bind {source} {place}"

    def _value(self, variable: Obj) -> str:
        fields = {"spec.nodeName": NODE, "status.hostIP": ADDRESS}
        return fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]

    def _start(self, log: str, *argv: str) -> "subprocess.Popen[bytes]":
        with (self.directory / f"{log}.log").open("ab") as file:
            command = ["ip", "netns", "exec", self.name, *argv]
            return subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)


def _read_only(context: dict[str, Any]) -> list[str]:
    assert context["readOnlyRootFilesystem"] is True
    lines = [f"mount -o remount,bind,ro {place}" for place in ("/", "/run", *OVERLAID)]
    if not context.get("privileged"):
        lines += ["mount --bind /proc/sys /proc/sys", "mount -o remount,bind,ro /proc/sys"]
    return lines


def _rights(context: dict[str, Any]) -> tuple[str, ...]:
    if context.get("privileged"):
        return ()
    capabilities = context["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    kept = "".join(f",+{name.lower()}" for name in capabilities.get("add", ()))
    return "setpriv", f"--bounding-set=-all{kept}", "--no-new-privs"
