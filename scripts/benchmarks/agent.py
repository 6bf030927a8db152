"""The whole agent as a process: how soon it is in sync, how much memory it holds, and what it costs when idle.

A real API server on SQLite that was filled through the API, N Services x 3 endpoints, and the real agent started
against it. The clock runs from the agent's start to its first complete sync.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import cluster
from figures import Row, Size, rows
from meter import peak_mib, resident_mib
from namespace import fresh
from subject import Subject

from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, SERVICES

API = "http://127.0.0.1:8001"
STATUS = "http://127.0.0.1:10249/statusz.json"
DEADLINE_SECONDS = 120.0
WRITERS = 16
AGENT = "agent"
START, IDLE = "agent: start to in sync", "agent: one idle second"
QUIET_SECONDS, IDLE_SECONDS = 5.0, 10.0
"""How long an agent in sync is left alone, and how long it is then watched."""


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


def in_sync() -> bool:
    """Whether the kernel holds the whole cluster."""
    found = status()
    return bool(found and found["families"][0]["synced"])


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(subject: Subject, size: Size) -> list[Row]:
    """Measure one mode at one size."""
    fresh()
    flags = [f"--mode={subject.parts.mode}", f"--master={API}", f"--cluster-cidr={cluster.CLUSTER_CIDR}"]
    if subject.parts.flavour:
        # The agent takes the flavour that the host uses: the one that holds rules.
        program = f"iptables-{subject.parts.flavour}"
        subprocess.run([program, "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"], check=True)
    command = [sys.executable, "-m", "kubeproxy"]
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            store = f"--store=sqlite:{directory}/store.db"
            started.append(subprocess.Popen([*command, "apiserver", store], stderr=subprocess.DEVNULL))
            asyncio.run(fill(size.services))
            began = time.monotonic()
            agent = subprocess.Popen([*command, *flags], stderr=subprocess.DEVNULL)
            started.append(agent)
            while not in_sync():
                if time.monotonic() - began > DEADLINE_SECONDS:
                    raise SystemExit(f"not in sync within {DEADLINE_SECONDS:g} s")
                time.sleep(0.02)
            seconds, peak, used = time.monotonic() - began, peak_mib(agent.pid), cpu_of(agent.pid)
            found = rows(START, subject.name, size, [seconds], cpu_seconds=used, rss_mib=peak)
            time.sleep(QUIET_SECONDS)
            before = cpu_of(agent.pid)
            time.sleep(IDLE_SECONDS)
            idle = (cpu_of(agent.pid) - before) / IDLE_SECONDS
            resident = resident_mib(agent.pid)
            mode, services = subject.name, size.services
            return [*found, Row(what=IDLE, mode=mode, services=services, cpu_seconds=idle, rss_mib=resident)]
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
                process.wait()
