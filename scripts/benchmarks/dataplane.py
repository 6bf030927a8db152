"""Full-load and one-change times of iptables mode beside the bare iptables-restore of the same text.

`scripts/bench --only full-load,one-change` runs it.

Every size is measured in a process and a network namespace of its own: N Services x 3 endpoints in a World; the
time from that World to the kernel holding it (full load), and from one changed EndpointSlice, or one new Service,
to the kernel holding that (one change). Each of our runs is followed by a bare run of the text that it wrote, so
that a busy machine slows both; figures are medians, the ratio is that of the medians.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from namespace import run_inside

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.localnet import ROUTE_LOCALNET
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import crowd, endpoint_slice, service

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.128.0.0/9",))
FULL_ROUNDS, CHANGE_ROUNDS = 5, 9
ENDPOINTS = 3


class Recording(Iptables):
    """The iptables programs, remembering the last text (its pieces, so that it costs next to nothing)."""

    def restore(self, text: str | Iterable[str], *, wait_seconds: int = 5) -> None:
        self.pieces: list[str] = []
        super().restore(self._noted(text), wait_seconds=wait_seconds)

    def _noted(self, text: Iterable[str]) -> Iterator[str]:
        for piece in text:
            self.pieces.append(piece)
            yield piece


class Subject:
    """A backend over a crowded World, in the network namespace of this process."""

    def __init__(self, services: int, flavour: Flavour) -> None:
        self.world = crowd(services, ENDPOINTS)
        self.tables = Recording(SystemExec(), Family.V4, flavour)
        self.sets = Ipset(Family.V4)
        # As on a node where it is set already: remembering that it was not is one more restore, once.
        ProcSysctls().ensure(ROUTE_LOCALNET, "1")
        self.backend = IptablesBackend(self.tables, self.sets, ProcSysctls(), Family.V4)
        self._argv = [f"iptables-{flavour}-restore", "--wait", "5", "--noflush", "--counters"]

    def sync(self, scope: Collection[Key] | None) -> None:
        plan = self.backend.diff(wanted(self.world.part(scope), SETTINGS, Family.V4, scope), scope)
        assert plan is not None
        self.backend.apply(plan)

    def text(self) -> str:
        return "".join(self.tables.pieces)

    def bare(self, text: str) -> float:
        """Write a text again with nothing but the program."""
        return timed(lambda: subprocess.run(self._argv, input=text, text=True, check=True))

    def full_load(self) -> tuple[float, float]:
        ours, text = timed(lambda: self.sync(None)), self.text()
        self.lines = text.count("\n")
        self.backend.cleanup()
        self.sets.create(names.LOCAL_ENDPOINTS[Family.V4], SetType.ENDPOINTS)
        self.sets.create(names.CLUSTER_IPS[Family.V4], SetType.ADDRESSES)
        bare = self.bare(text)
        self.backend.cleanup()
        return ours, bare

    def moved_endpoint(self, turn: int) -> tuple[float, float]:
        ports = "http=80>8080"
        piece = endpoint_slice(f"bench/svc-{turn}", ports, [f"10.255.{turn}.{i}@node5" for i in range(ENDPOINTS)])

        def change() -> None:
            self.sync(self.world.apply_slices({("bench", piece.name): piece}))

        return timed(change), self.bare(self.text())

    def new_service(self, turn: int) -> tuple[float, float]:
        name, ports = f"bench/new-{turn}", "http=80>8080"
        one = service(name, f"10.112.0.{turn}", ports)
        piece = endpoint_slice(name, ports, [f"10.254.{turn}.{i}@node5" for i in range(ENDPOINTS)])

        def change() -> None:
            touched = self.world.apply_services({("bench", one.name): one})
            self.sync(touched | self.world.apply_slices({("bench", piece.name): piece}))

        # The bare run adds the rule of KUBE-SERVICES once more: harmless here, and what it costs.
        return timed(change), self.bare(self.text())


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compared(rounds: int, run: Callable[[int], tuple[float, float]]) -> dict[str, float]:
    pairs = [run(turn) for turn in range(rounds)]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"ours_ms": ours * 1000, "bare_ms": bare * 1000, "ratio": ours / bare}


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(services: int, flavour: Flavour) -> dict[str, Any]:
    """Measure one size; this process is in a network namespace of its own."""
    subject = Subject(services, flavour)
    subject.full_load()  # programs, libraries and modules are loaded now
    full = compared(FULL_ROUNDS, lambda turn: subject.full_load())
    subject.tables.pieces = []
    subject.sync(None)
    moved = compared(CHANGE_ROUNDS, subject.moved_endpoint)
    new = compared(CHANGE_ROUNDS, subject.new_service)
    subject.tables.pieces = []
    memory = resident_mb()
    subject.backend.cleanup()
    return {
        "services": services,
        "flavour": flavour.value,
        "lines": subject.lines,
        "full load": full,
        "endpoints of one Service change": moved,
        "one Service is added": new,
        "resident_mb": memory,
    }


def in_own_namespace(services: int, flavour: Flavour) -> dict[str, Any]:
    result: dict[str, Any] = run_inside(__file__, "--inside", str(services), "--flavour", flavour)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inside", type=int, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--flavour", required=True, choices=list(Flavour), type=Flavour)
    given = parser.parse_args()
    print(json.dumps(measure(given.inside, given.flavour)))
