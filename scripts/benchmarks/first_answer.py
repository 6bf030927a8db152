"""How long from `kubectl apply` to the first answered request? On a lab of two nodes, with the real kubectl.

Two rows: the whole tutorial (Deployment and Service: pods are made, started and probed; the manifest's readiness
probe alone waits 1 s), and the Service alone over pods that run: allocation, EndpointSlices and the kernel.
The clock starts before kubectl does; its own start is shown beside.
"""

import subprocess
import sys
import time
from pathlib import Path

import msgspec

from kubeproxy.lab import state

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "kubeproxy/lab/manifests"
NAME = "bench"
NODE_PORT = ("192.168.56.11", 32600)
ROUNDS = 5
DEADLINE_SECONDS = 60.0

# The node port refuses by ICMP until endpoints are there, and the kernel limits ICMP to one a second after a few:
# an attempt that hears nothing must be given up soon, or its patience is what is measured.
ASK_UNTIL_ANSWERED = f"""
import socket, time
end = time.time() + {DEADLINE_SECONDS}
while time.time() < end:
    try:
        with socket.create_connection({NODE_PORT!r}, 0.01) as connection:
            connection.settimeout(5)
            connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            if b" 200 " in connection.recv(100):
                print(time.time())
                break
    except OSError:
        time.sleep(0.002)
"""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One row, in the form of `scripts/bench --json`."""

    what: str
    seconds: float
    floor_seconds: float
    """What `kubectl version --client` takes: the part that is kubectl's own start."""


def kubectl(*argv: str) -> None:
    config = str(state.find(NAME).kubeconfig)
    subprocess.run(["kubectl", "--kubeconfig", config, *argv], check=True, stdout=subprocess.DEVNULL)


def first_answer(*manifests: str) -> float:
    """Apply, and return the seconds until a client outside the cluster was answered on a node port."""
    files = [word for name in manifests for word in ("-f", str(MANIFESTS / name))]
    ask = ["kubeproxy", "lab", "exec", NAME, "outside", "--", sys.executable, "-c", ASK_UNTIL_ANSWERED]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as client:
        time.sleep(0.5)  # The client must be asking before anything is applied.
        began = time.time()
        kubectl("apply", *files)
        answered, _ = client.communicate(timeout=DEADLINE_SECONDS + 10)
    if not answered:
        raise SystemExit(f"no answer within {DEADLINE_SECONDS:g} s")
    return float(answered) - began


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def kubectl_start() -> float:
    began = time.time()
    subprocess.run(["kubectl", "version", "--client"], check=True, stdout=subprocess.DEVNULL)
    return time.time() - began


def measure() -> list[Result]:
    """Run the benchmark on a lab of its own and return its rows (medians)."""
    subprocess.run(["kubeproxy", "lab", "up", "--name", NAME, "--nodes", "2"], check=True)
    whole, service = [], []
    try:
        floor = median([kubectl_start() for _ in range(ROUNDS)])
        for _ in range(ROUNDS):
            whole.append(first_answer("nginx-deployment.yaml", "nginx-service.yaml"))
            kubectl("rollout", "status", "deployment/nginx-deployment")
            kubectl("delete", "service", "nginx-service")
            service.append(first_answer("nginx-service.yaml"))
            kubectl("delete", "service", "nginx-service")
            kubectl("delete", "deployment", "nginx-deployment")
            kubectl("wait", "--for=delete", "pod", "-l", "app=nginx", "--timeout=60s")
    finally:
        subprocess.run(["kubeproxy", "lab", "down", NAME], check=False)
    return [
        Result(what="apply Deployment and Service", seconds=median(whole), floor_seconds=floor),
        Result(what="apply Service, pods running", seconds=median(service), floor_seconds=floor),
    ]
