"""Two machines for the agent as a whole program: `node` runs it, `peer` is the client outside and a web server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until

BIN = Path(sys.executable).parent
NODE_IP, PEER_IP = "192.168.9.1", "192.168.9.2"
API = "http://127.0.0.1:8001"

WEB = f"""
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, clusterIP: 10.96.7.7, ports: [{{port: 80, nodePort: 30080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: "", port: 8000}}]
endpoints: [{{addresses: [{PEER_IP}]}}]
"""


class Machine:
    """A network namespace, and programs run in it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self._started: dict[subprocess.Popen[str], Path] = {}
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        inside = ["ip", "netns", "exec", self.name, *argv]
        environment = {**os.environ, "COLUMNS": "200", "PATH": f"{BIN}:{os.environ['PATH']}"}
        return subprocess.run(
            inside, input=stdin, capture_output=True, text=True, check=False, timeout=60, env=environment
        )

    def start(self, *argv: str) -> subprocess.Popen[str]:
        inside = ["ip", "netns", "exec", self.name, *argv]
        log = self.directory / f"{self.name}-{len(self._started)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(inside, stdout=file, stderr=file, text=True)
        self._started[process] = log
        return process

    def log_of(self, process: subprocess.Popen[str]) -> str:
        return self._started[process].read_text()

    def agent(self, *flags: str, programs: Path | None = None) -> subprocess.Popen[str]:
        """Start an agent; ``programs``: a directory whose programs it shall find before the system's."""
        common = ("--mode=iptables", "--hostname-override=node", f"--data-dir={self.directory / 'data'}")
        path = ("env", f"PATH={programs}:{os.environ['PATH']}") if programs else ()
        return self.start(*path, str(BIN / "kubeproxy"), *common, *flags)

    def kubectl(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.run("kubectl", "-s", API, *argv, stdin=stdin)

    def status_of(self, url: str) -> str:
        return self.run("curl", "-s", "-o", "/dev/null", "-m", "2", "-w", "%{http_code}", url).stdout

    def rules(self) -> str:
        return self.run("iptables-nft-save").stdout + self.run("iptables-legacy-save").stdout

    def remove(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "del", self.name], check=True)


@contextmanager
def two_machines(directory: Path) -> Iterator[tuple[Machine, Machine]]:
    """A node and a peer, on the two ends of a cable; the peer serves the directory on port 8000."""
    node, peer = (Machine(f"kp-{role}-{os.getpid()}", directory) for role in ("node", "peer"))
    try:
        node.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", peer.name)
        for machine, address in ((node, NODE_IP), (peer, PEER_IP)):
            machine.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            machine.run("ip", "link", "set", "eth0", "up")
        node.run("ip", "route", "add", "default", "via", PEER_IP)
        node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        peer.start(sys.executable, "-m", "http.server", "8000", "--directory", str(directory))
        yield node, peer
    finally:
        node.remove()
        peer.remove()


def serve_web(node: Machine) -> None:
    until(lambda: node.kubectl("get", "ns", "default").returncode == 0, "the API answers")
    applied = node.kubectl("apply", "-f", "-", stdin=WEB)
    assert applied.returncode == 0, applied.stderr
    until(lambda: node.status_of("http://10.96.7.7/") == "200", "the cluster IP answers")
