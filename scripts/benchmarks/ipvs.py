"""Full-load and one-change times of ipvs mode beside `ipvsadm -R` of the same, inside one User-Mode Linux machine.

`scripts/bench --only ipvs` runs it: this kernel need not have IPVS.

Each round is two fresh network namespaces of the machine, for the kernel remembers deleted destinations for a
while and is slow to add others meanwhile. In the first, N Services x 3 endpoints go from a World to the kernel
(virtual servers, sets, addresses and rules), then single changes of endpoints do; in the second, `ipvsadm -R`
reads what `ipvsadm -S` said of the first (virtual servers alone). Figures are medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from namespace import run_inside

from kubeproxy.dataplane.ipvs.machine import ipvs_backend
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.lab.machine.machine import Machine
from kubeproxy.lab.machine.spec import Spec
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import crowd, endpoint_slice

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.128.0.0/9",), ipvs=IpvsSettings())
ENDPOINTS, CHANGES, MEMORY = 3, 41, "1G"
MODULES = "modprobe -a ipv6 nf_conntrack ip_vs ip_vs_rr dummy xt_set ip_set_hash_ipport ip_set_hash_netport"
ADDED = (
    "-a -t {vip}:80 -r {new}:8080 -m -w 1\n-e -t {vip}:80 -r {old}:8080 -m -w 0\n-d -t {vip}:80 -r {old}:8080\n"
)


class Subject:
    """A backend over a crowded World, in the network namespace of this process."""

    def __init__(self, services: int) -> None:
        self.world = crowd(services, ENDPOINTS)
        self.backend = ipvs_backend(Family.V4, Flavour.LEGACY, SETTINGS.ipvs or IpvsSettings())

    def sync(self, scope: Collection[Key] | None) -> float:
        """Sync; return the seconds from the rendered plan to the kernel holding it."""
        plan = self.backend.diff(wanted(self.world.part(scope), SETTINGS, Family.V4, scope), scope)
        assert plan is not None
        return timed(lambda: self.backend.apply(plan))

    def change(self, turn: int) -> tuple[float, float]:
        """Move one Service's endpoints; return the seconds of the kernel's part, and of all."""
        addresses = [f"10.255.{turn}.{number}@node5" for number in range(ENDPOINTS)]
        piece = endpoint_slice("bench/svc-7", "http=80>8080", addresses)
        touched = self.world.apply_slices({("bench", piece.name): piece})
        began = time.perf_counter()
        kernel = self.sync(touched)
        return kernel, time.perf_counter() - began


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ours(services: int, saved: Path) -> dict[str, float]:
    """Load and change in this process's namespace; leave what `ipvsadm -S` says behind."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subject = Subject(services)
    full = timed(lambda: subject.sync(None))
    saved.write_bytes(subprocess.run(["ipvsadm", "-Sn"], check=True, stdout=subprocess.PIPE).stdout)
    changes = [subject.change(turn) for turn in range(CHANGES)]
    kernel, whole = (statistics.median(column) for column in zip(*changes, strict=True))
    bare = statistics.median(single_edit(subject, turn) for turn in range(5))
    return {"full": full, "kernel": kernel, "whole": whole, "ipvsadm": bare}


def single_edit(subject: Subject, turn: int) -> float:
    """Return what `ipvsadm -R` takes to replace one destination of the Service that was changed."""
    vip = next(service.cluster_ips[0] for key, service in subject.world.services.items() if key[1] == "svc-7")
    old = f"10.255.{CHANGES - 1}.0" if not turn else f"10.254.0.{turn}"
    text = ADDED.format(vip=vip, old=old, new=f"10.254.0.{turn + 1}")
    return timed(lambda: subprocess.run(["ipvsadm", "-R"], input=text, text=True, check=True))


def bare(saved: Path) -> dict[str, float]:
    """Load the same virtual servers by ipvsadm."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with saved.open("rb") as text:
        return {"full": timed(lambda: subprocess.run(["ipvsadm", "-R"], stdin=text, check=True))}


def rounds(services: int) -> dict[str, Any]:
    """Measure one size, inside the machine."""
    saved = Path(tempfile.mkdtemp(), "saved")
    count = 3 if services <= 1000 else 1
    pairs = [
        (
            run_inside(__file__, "--ours", str(saved), "--services", str(services)),
            run_inside(__file__, "--bare", str(saved)),
        )
        for _ in range(count)
    ]
    mine, theirs = zip(*pairs, strict=True)

    def median(figures: Any, name: str) -> float:
        return statistics.median(each[name] for each in figures)

    return {
        "full load": (median(mine, "full"), median(theirs, "full")),
        "endpoints of one Service change, to the kernel": (median(mine, "kernel"), median(mine, "ipvsadm")),
        "endpoints of one Service change, with rendering": (median(mine, "whole"), median(mine, "ipvsadm")),
    }


def in_machine(sizes: list[int]) -> dict[int, dict[str, Any]]:
    """Measure all sizes in one machine; seconds of ours and of ipvsadm's by what was measured."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Machine.boot(Spec(name="bench", memory=MEMORY), directory) as machine,
    ):
        machine.run(["sh", "-c", MODULES], timeout=60)
        found = {}
        for size in [sizes[0], *sizes]:  # The first run finds programs and files cold; it is not counted.
            argv = [sys.executable, __file__, "--rounds", "--services", str(size)]
            done = machine.run(argv, timeout=600)
            if done.status:
                raise SystemExit(f"inside the machine: {done.stderr.decode()}")
            found[size] = json.loads(done.stdout)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=1000, help=argparse.SUPPRESS)
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rounds:
        print(json.dumps(rounds(given.services)))
    elif given.ours:
        print(json.dumps(ours(given.services, given.ours)))
    else:
        print(json.dumps(bare(given.bare)))


if __name__ == "__main__":
    main()
