"""The API server is killed for a while, three times: what does the agent do to the kernel when it is back?

Runs in a network namespace of its own: a real API server on SQLite with N Services, the real agent, and wrappers
around the iptables-restore programs that count their executions. The server comes back with nothing changed (no
restore may run), with one Service changed (one restore), and with its store restored from an older copy (one
restore for what differs). `--seconds` is the length of each absence; 600 is the ten minutes of issue 3.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from agent import API, fill, status
from namespace import run_inside

from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import SERVICES

SERVICE_COUNT = 100
DEADLINE_SECONDS = 30.0
QUIET_SECONDS = 3.0
"""How long nothing may happen any more before a case is over."""


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {DEADLINE_SECONDS:g} s: {what}")
        time.sleep(0.05)


class Machine:
    """The programs of one case after another, and what the wrappers counted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = directory / "store"
        self._store.mkdir()
        self._counted = directory / "restores"
        self._counted.touch()
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def restores(self) -> int:
        return len(self._counted.read_text().splitlines())

    def wrapped_path(self) -> str:
        """Return a PATH on which every iptables-restore is counted."""
        wrappers = self._directory / "bin"
        wrappers.mkdir()
        for name in ("iptables-restore", "iptables-legacy-restore", "iptables-nft-restore"):
            real = shutil.which(name)
            if real:
                script = f'#!/bin/sh\n[ "$1" = --version ] || echo {name} >> {self._counted}\nexec {real} "$@"\n'
                (wrappers / name).write_text(script)
                (wrappers / name).chmod(0o755)
        return f"{wrappers}:{os.environ['PATH']}"

    def start_server(self) -> None:
        argv = [sys.executable, "-m", "kubeproxy", "apiserver", f"--store=sqlite:{self._store}/store.db"]
        log = (self._directory / "server.log").open("a")
        self._server = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill_server(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGKILL)
            self._server.wait()
            self._server = None

    def keep_store(self) -> None:
        """Copy the store as it is; the server must not run."""
        shutil.copytree(self._store, self._directory / "kept")

    def bring_store_back(self) -> None:
        shutil.rmtree(self._store)
        shutil.copytree(self._directory / "kept", self._store)

    @contextlib.contextmanager
    def agent(self) -> Iterator[Path]:
        argv = [
            sys.executable,
            "-m",
            "kubeproxy",
            "--mode=iptables",
            f"--master={API}",
            "--cluster-cidr=10.128.0.0/9",
        ]
        path = self._directory / "agent.log"
        with path.open("w") as log:
            process = subprocess.Popen(
                argv, env={**os.environ, "PATH": self.wrapped_path()}, stdout=log, stderr=log
            )
        try:
            yield path
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def asked(call: Callable[[KubeClient], Awaitable[object]]) -> None:
    """Make a request as soon as the server answers."""

    async def attempt() -> bool:
        async with KubeClient(API) as client:
            try:
                await call(client)
            except Unavailable:
                return False
            return True

    until(lambda: asyncio.run(attempt()), "the API server answers")


def in_sync() -> bool:
    found = status()
    if not found or not all(each["connected"] for each in found["informers"].values()):
        return False
    family = found["families"][0]
    return bool(family["synced"] and family["queued_since"] is None)


async def change_one(client: KubeClient) -> object:
    return await client.patch(SERVICES, "default", "svc-7", {"spec": {"externalIPs": ["192.0.2.77"]}})


def case(machine: Machine, name: str, seconds: float, while_away: Callable[[], None], then: Any) -> dict[str, Any]:
    machine.kill_server()
    before = status()
    assert before
    restores = machine.restores
    until(lambda: not in_sync(), "the agent notices")
    time.sleep(seconds)
    while_away()
    away = status()
    machine.start_server()
    asked(then)
    began = time.monotonic()
    until(in_sync, "the agent is back")
    back = time.monotonic() - began
    quiet_since, seen = time.monotonic(), machine.restores
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        if machine.restores != seen:
            quiet_since, seen = time.monotonic(), machine.restores
        time.sleep(0.05)
    found = status()
    assert found
    assert away
    return {
        "case": name,
        "seconds_away": seconds,
        "failed_attempts": failures(away) - failures(before),
        "back_after_seconds": round(back, 2),
        "iptables_restore_executions": machine.restores - restores,
        "syncs": found["families"][0]["syncs"] - before["families"][0]["syncs"],
        "ports_written": found["families"][0]["changed"] if machine.restores > restores else 0,
    }


def failures(found: dict[str, Any]) -> int:
    return sum(each["failures"] for each in found["informers"].values())


def nothing() -> None:
    pass


async def look(client: KubeClient) -> object:
    return await client.list(SERVICES)


def measure(seconds: float) -> list[dict[str, Any]]:
    """Run the three cases; this process is in a network namespace of its own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(Path(name))
        machine.start_server()
        try:
            asyncio.run(fill(SERVICE_COUNT))
            with machine.agent() as log:
                until(in_sync, "the agent is in sync")
                rows = [case(machine, "nothing changed", seconds, machine.keep_store, look)]
                rows.append(case(machine, "one Service changed", seconds, nothing, change_one))
                rows.append(case(machine, "store restored", seconds, machine.bring_store_back, look))
                for line in log.read_text().splitlines():
                    print(line, file=sys.stderr)
        finally:
            machine.kill_server()
        return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the server is away each time")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(measure(given.seconds)))
    else:
        for row in run_inside(__file__, "--inside", f"--seconds={given.seconds}"):
            print(json.dumps(row))
