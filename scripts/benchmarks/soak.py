"""Requests through a cluster IP while the programs behind it are killed: what do clients lose?

For each victim (the agents of both nodes, the API server, the resolver) clients in a pod ask the nginx Service at
a steady rate, and hold connections open; the victim gets SIGKILL several times on the way. Exit status 0 only
if no held connection broke, and no request failed while the agent or the API server was killed. (A resolver
that is killed can cost a name look-up its first try; it must not cost a connection.)
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kubeproxy.lab import state

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "kubeproxy/lab/manifests"
CLIENT = ROOT / "kubeproxy/lab/client.py"
HELD = Path(__file__).with_name("held_connections.py")
NAME = "soak"
HELD_CONNECTIONS = 10
KILLS = 5
DEADLINE_SECONDS = 90.0


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def kubectl(*argv: str) -> str:
    return run("kubectl", "--kubeconfig", str(state.find(NAME).kubeconfig), *argv)


def inside(target: str, *argv: str) -> list[str]:
    return ["kubeproxy", "lab", "exec", NAME, target, "--", *argv]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} within {DEADLINE_SECONDS:g} s")
        time.sleep(0.2)


def program_pids(prefix: str) -> dict[str, int]:
    programs = state.find(NAME).status().programs
    return {program.name: program.pid for program in programs if program.name.startswith(prefix)}


def resolver_pids() -> dict[str, int]:
    listing = run(*inside("control", "ps", "-eo", "pid,args"))
    lines = [line.split(None, 1) for line in listing.splitlines()]
    found = [int(pid) for pid, args in lines if "clusterdns" in args and "sandbox" not in args]
    return {f"clusterdns ({pid})": pid for pid in found}


VICTIMS: dict[str, Callable[[], dict[str, int]]] = {
    "agent": lambda: program_pids("kubeproxy-"),
    "API server": lambda: program_pids("apiserver"),
    "resolver": resolver_pids,
}


def prepare() -> None:
    run("kubeproxy", "lab", "up", "--name", NAME, "--nodes", "2")
    kubectl("apply", "-f", str(MANIFESTS / "nginx-deployment.yaml"), "-f", str(MANIFESTS / "nginx-service.yaml"))
    kubectl("rollout", "status", "deployment/nginx-deployment", f"--timeout={DEADLINE_SECONDS:g}s")
    kubectl("apply", "-f", str(MANIFESTS / "demo-client.yaml"))
    kubectl("wait", "--for=condition=Ready", "pod/client", f"--timeout={DEADLINE_SECONDS:g}s")


def start(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=60)
    result: dict[str, Any] = json.loads(output)
    return result


def measure(victim: str, seconds: float, rate: float) -> dict[str, Any]:
    address = kubectl("get", "svc", "nginx-service", "-o", "jsonpath={.spec.clusterIP}")
    python = (sys.executable, "-I", "-S")
    load = start(inside("pod/client", *python, str(CLIENT), address, "80", "--until-eof", f"--rate={rate:g}"))
    held = start(inside("pod/client", *python, str(HELD), address, "80", str(HELD_CONNECTIONS)))
    killed = 0
    for _ in range(KILLS):
        time.sleep(seconds / (KILLS + 1))
        for pid in VICTIMS[victim]().values():
            killed += subprocess.run(inside("control", "kill", "-9", str(pid)), check=False).returncode == 0
    time.sleep(seconds / (KILLS + 1))
    return {"victim": victim, "killed": killed, "load": finish(load), "held": finish(held)}


def verdict(result: dict[str, Any]) -> bool:
    kept = result["held"]["held"] == HELD_CONNECTIONS and result["killed"] > 0
    return kept and (result["victim"] == "resolver" or result["load"]["failed"] == 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to ask, per victim")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    given = parser.parse_args()
    table = Table("killed", "times", "requests", "failed", "slowest ms", "connections held", "their answers")
    results = []
    try:
        prepare()
        for victim in VICTIMS:
            result = measure(victim, given.seconds, given.rate)
            results.append(result)
            load, held = result["load"], result["held"]
            table.add_row(
                victim,
                str(result["killed"]),
                str(load["answered"] + load["failed"]),
                str(load["failed"]),
                f"{load['slowest'] * 1000:.0f}",
                f"{held['held']} of {HELD_CONNECTIONS}",
                str(held["answers"]),
            )
            for complaint in {*load["errors"], *held["broken"]}:
                print(f"{victim}: {complaint}", file=sys.stderr)
            until(lambda: state.find(NAME).state is state.State.RUNNING, "the lab is not whole again")
    finally:
        subprocess.run(["kubeproxy", "lab", "down", NAME], check=False)
    Console().print(table)
    return 0 if results and all(map(verdict, results)) else 1


sys.exit(main())
