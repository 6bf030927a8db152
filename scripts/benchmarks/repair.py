"""What somebody else does to our state in the kernel, until it is put right: the whole agent, in this process.

From the end of the other's change to the backend's word that the kernel holds everything again; then the kernel is
read, and must hold what it held before.
"""

import asyncio
import statistics
import sys
import time
from typing import NamedTuple

import cluster
from agent_bed import AgentBed, running
from edits import Edit
from figures import Row, Size, rows
from meter import cpu_seconds, peak_mib, timed
from namespace import fresh
from subject import Subject, load, settings

from kubeproxy.modes import GLANCE_SECONDS
from kubeproxy.sync import watching

REPAIR = "repair"
ROUNDS = 5
START_SECONDS = 6.0
"""After its first sync an agent looks for what other proxies left, and more: it is measured when it is at rest."""
DEADLINE_SECONDS = 20.0
"""What is not put right by then is taken for unnoticed."""
REST_SECONDS, REST = 0.3, 2.0
"""From a repair to the next edit at least, and as often what it took: the look or full sync after it is over."""
APART_SECONDS = GLANCE_SECONDS / ROUNDS
"""So much more each time: what is asked for every so often is not to be asked at the same time after each edit."""
LOADED, ADOPTED = "a full load", "a restart adoption"


class _Repair(NamedTuple):
    seconds: float
    cpu: float


def measure(subject: Subject, size: Size) -> list[Row]:
    """Measure each of the subject's edits a few times."""
    fresh()
    floors = _floors(subject, size)
    fresh()
    # What is damped is a fight; here it is the same hand each time, and each of its deeds is the first.
    watching.FIRST_PATIENCE_SECONDS = watching.MOST_PATIENCE_SECONDS = 0.0
    return asyncio.run(_measure(subject, size, floors))


def _floors(subject: Subject, size: Size) -> dict[str, list[float]]:
    world, of = cluster.world(size), settings(subject.ipvs)
    return {what: [timed(lambda: load(subject.backend(), world, of))] for what in (LOADED, ADOPTED)}


async def _measure(subject: Subject, size: Size, floors: dict[str, list[float]]) -> list[Row]:
    found: list[Row] = []
    async with running(subject, size, real=True) as bed:
        await asyncio.sleep(START_SECONDS)
        for edit in subject.edits(size):
            repairs: list[_Repair] = []
            for turn in range(ROUNDS):
                done = await _repair(subject, bed, edit, turn)
                if done is None:
                    # What comes after it would find another state than it should.
                    print(f"{subject.name}, {size}: {edit.what}: not put right", file=sys.stderr)
                    return found
                repairs.append(done)
            found += rows(
                f"repair: {edit.what}",
                subject.name,
                size,
                [each.seconds for each in repairs],
                floors,
                cpu_seconds=statistics.median(each.cpu for each in repairs),
                rss_mib=peak_mib(),
            )
    return found


async def _repair(subject: Subject, bed: AgentBed, edit: Edit, turn: int) -> _Repair | None:
    """Return what one repair took, None when there was none."""
    before, whole, cpu = await asyncio.to_thread(subject.held), bed.whole_again(), cpu_seconds()

    def do() -> float:
        edit.do(turn)
        return time.perf_counter()

    # The kernel tells of a change before who asked for it has its answer: a repair may be over sooner.
    ended = await asyncio.to_thread(do)
    try:
        at = await asyncio.wait_for(whole, DEADLINE_SECONDS)
    except TimeoutError:
        return None
    repair = _Repair(max(at - ended, 0.0), cpu_seconds() - cpu)
    await asyncio.sleep(max(REST_SECONDS, REST * repair.seconds) + APART_SECONDS * turn)
    if await asyncio.to_thread(subject.held) != before:
        raise SystemExit(f"{subject.name}: {edit.what}: what the kernel holds is not what it held")
    return repair
