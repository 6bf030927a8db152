"""All Services into an empty kernel, and an agent's restart over a kernel that holds them: the backend alone.

From a World in memory, as after the first lists, to the kernel holding it: computing ServiceStates, rendering, and
whatever the mode's interface to the kernel takes.
"""

from collections.abc import Collection
from typing import NamedTuple

import cluster
from figures import Row, Size, rows
from meter import cpu_seconds, peak_mib, timed
from namespace import fresh
from subject import NO_KERNEL, Subject, load, settings

from kubeproxy.dataplane.base import Backend
from kubeproxy.model.world import World

FULL_LOAD, ADOPTION = "full-load", "adoption"
WARM_UP = Size(10)
"""Loaded first, and not counted: programs, libraries and kernel modules."""


class _Load(NamedTuple):
    seconds: float
    cpu: float


def measure(subject: Subject, size: Size, only: Collection[str]) -> list[Row]:
    """Measure in fresh namespaces, a round after another; ``only``: of FULL_LOAD and ADOPTION."""
    fresh()
    _load(subject, subject.backend(), cluster.world(WARM_UP))
    world = cluster.world(size)
    loads: list[_Load] = []
    adoptions: list[_Load] = []
    without: list[float] = []
    floors: dict[str, list[float]] = {}
    reads: dict[str, list[float]] = {}
    peak = 0.0
    rounds = 5 if size.services * size.endpoints <= 3000 else 3
    for turn in range(rounds):
        fresh()
        loads.append(_load(subject, subject.backend(), world))
        of_load = list(subject.load_floors(size)) if FULL_LOAD in only else []
        if ADOPTION in only:
            adoptions.append(_load(subject, subject.backend(), world))
            for floor in subject.read_floors(size):
                if turn < floor.rounds:
                    reads.setdefault(floor.name, []).append(floor.run())
        peak = peak or peak_mib()
        without.append(_load(subject, subject.null_backend(), world).seconds)
        for floor in of_load:
            if turn < floor.rounds:
                fresh()
                floors.setdefault(floor.name, []).append(floor.run())
    found: list[Row] = []
    for name, what, samples, beside in (
        (FULL_LOAD, "full load", loads, floors),
        (ADOPTION, "restart adoption", adoptions, reads),
    ):
        if name in only:
            seconds, cpu = [each.seconds for each in samples], sum(each.cpu for each in samples) / rounds
            all_floors = beside | {NO_KERNEL: without}
            found += rows(what, subject.name, size, seconds, all_floors, cpu_seconds=cpu, rss_mib=peak)
    return found


def _load(subject: Subject, backend: Backend, world: World) -> _Load:
    before = cpu_seconds()
    of = settings(subject.ipvs)
    return _Load(timed(lambda: load(backend, world, of)), cpu_seconds() - before)
