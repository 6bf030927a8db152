"""The whole agent as a process: how much memory it holds, and how soon it is in sync, at N Services x 3 endpoints.

Runs in a network namespace of its own: a real API server on SQLite that was filled through the API, and the real
agent started against it. The clock runs from the agent's start to its first complete sync.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from namespace import run_inside

from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, SERVICES

API = "http://127.0.0.1:8001"
STATUS = "http://127.0.0.1:10249/statusz.json"
DEADLINE_SECONDS = 120.0
WRITERS = 16


def objects(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    name = f"svc-{number}"
    service = {"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}
    endpoints = [
        {"addresses": [f"10.{128 + i}.{number // 250}.{number % 250 + 1}"], "nodeName": f"node{i}"}
        for i in range(3)
    ]
    piece = {
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }
    return service, piece


async def fill(services: int) -> None:
    numbers = iter(range(services))

    async def write(client: KubeClient) -> None:
        for number in numbers:
            service, piece = objects(number)
            await client.create(SERVICES, "default", service)
            await client.create(ENDPOINT_SLICES, "default", piece)

    async with KubeClient(API) as client:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                await client.list(SERVICES)
                break
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        await asyncio.gather(*(write(client) for _ in range(WRITERS)))


def status() -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(STATUS, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, OSError):
        return None


def resident_mib(pid: int) -> float:
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


def measure(services: int, flavour: str) -> dict[str, Any]:
    """Measure one size; this process is in a network namespace of its own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # The agent takes the flavour that the host uses: the one that holds rules.
    subprocess.run([f"iptables-{flavour}", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"], check=True)
    command = [sys.executable, "-m", "kubeproxy"]
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            store = f"--store=sqlite:{directory}/store.db"
            started.append(subprocess.Popen([*command, "apiserver", store], stderr=subprocess.DEVNULL))
            asyncio.run(fill(services))
            began = time.monotonic()
            flags = ["--mode=iptables", f"--master={API}", "--cluster-cidr=10.128.0.0/9"]
            agent = subprocess.Popen([*command, *flags], stderr=subprocess.DEVNULL)
            started.append(agent)
            while not ((found := status()) and found["families"][0]["synced"]):
                if time.monotonic() - began > DEADLINE_SECONDS:
                    raise SystemExit(f"not in sync within {DEADLINE_SECONDS:g} s")
                time.sleep(0.02)
            seconds = time.monotonic() - began
            return {"services": services, "seconds": seconds, "rss_mib": resident_mib(agent.pid)}
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
                process.wait()


def in_own_namespace(services: int, flavour: str) -> dict[str, Any]:
    result: dict[str, Any] = run_inside(__file__, "--inside", str(services), "--flavour", flavour)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inside", type=int, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--flavour", required=True)
    given = parser.parse_args()
    print(json.dumps(measure(given.inside, given.flavour)))
