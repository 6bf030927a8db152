"""One change, and a thousand at once, from watch event to kernel: through the whole agent, in this process."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from statistics import fmean
from typing import NamedTuple

import cluster
from agent_bed import AgentBed, Event, running
from figures import Row, Size, rows
from meter import cpu_seconds, peak_mib
from namespace import fresh
from subject import NO_KERNEL, Subject

from kubeproxy.model.ident import Key
from kubeproxy.store.resources import ENDPOINT_SLICES, SERVICES

ONE_CHANGE, BURST = "one-change", "burst"
MOVED, ADDED, AT_ONCE = "one endpoint change", "one Service added", "1,000 changes in a burst"
FOLLOWED = "endpoints of a Service added before"
CHANGES, FOLLOWED_CHANGES, BURST_CHANGES, BURSTS = 200, 50, 1000, 3
PARTS = 8
"""Of a series. After each come the floors, once: the machines that we measure on change speed within minutes."""
START_SECONDS, LONGEST_START_SECONDS = 5.0, 60.0
"""After its first sync an agent looks for what other proxies left, and more: it is measured when it is at rest."""
REST_CPU = 0.05
"""CPU seconds a second at most of an agent at rest."""
PAUSE_SECONDS, REST = 0.005, 1.1
"""Between single changes at least, and as a part of what the last one took: each finds the agent idle, and not at
rest after long syncs in a row (`sync/runner.py`)."""
APART_SECONDS = 0.02
"""From a Service's event to that of its endpoints, which a controller makes when it has heard of the Service."""
MOST_SECONDS, FEWEST = 60.0, 20
"""A series that takes longer ends early: with legacy iptables, 200 changes at 30,000 Services take minutes."""
DISTURBANCE_SECONDS = 1.0
"""What a floor has changed is noticed by then, and looked into."""
STRIDE = 7919
"""From one changed Service to the next: the same again and again would be in the processor's caches."""


class Told(NamedTuple):
    """A change: the Service, the endpoint that it brings, the events that say so, and what came a while before."""

    key: Key
    address: str
    events: list[Event]
    ahead: Sequence[Event] = ()


class Samples(NamedTuple):
    """The seconds of each repetition, the CPU seconds of one (of each part of them), and what stands beside."""

    seconds: list[float]
    cpu: list[float]
    floors: dict[str, list[float]]


class Changes:
    """The changes of one agent's life: no endpoint comes twice."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._turn = 0
        self._added = 0

    def moved(self, number: int) -> Told:
        """Replace one endpoint of a Service."""
        self._turn += 1
        data = cluster.piece(self._size, number, 0, self._turn, revision=self._turn + 1)
        return Told(
            cluster.key(number), cluster.later_endpoint(self._turn), [Event(ENDPOINT_SLICES, "MODIFIED", data)]
        )

    def added(self, _: int) -> Told:
        """Add a Service, and its endpoints after it."""
        number, self._added = self._size.services + self._added, self._added + 1
        self._turn += 1
        few = Size(1, min(self._size.endpoints, 3))
        events = [
            Event(SERVICES, "ADDED", cluster.service(number, self._turn + 1)),
            Event(ENDPOINT_SLICES, "ADDED", cluster.piece(few, number, 0, self._turn, self._turn + 1)),
        ]
        return Told(cluster.key(number), cluster.later_endpoint(self._turn), events)

    def followed(self, number: int) -> Told:
        """Add a Service, and its endpoints as a change of their own."""
        told = self.added(number)
        return told._replace(events=told.events[1:], ahead=told.events[:1])


def measure(subject: Subject, size: Size, only: Collection[str]) -> list[Row]:
    """Measure in fresh namespaces, with a kernel and without; ``only``: of ONE_CHANGE and BURST."""
    fresh()
    with_kernel = asyncio.run(_agent(subject, size, only, real=True))
    peak = peak_mib()
    fresh()
    without = asyncio.run(_agent(subject, size, only, real=False))
    found: list[Row] = []
    for what, (seconds, cpu, floors) in with_kernel.items():
        beside = floors | {NO_KERNEL: without[what].seconds}
        found += rows(what, subject.name, size, seconds, beside, cpu_seconds=fmean(cpu), rss_mib=peak)
    return found


async def _agent(subject: Subject, size: Size, only: Collection[str], *, real: bool) -> dict[str, Samples]:
    found: dict[str, Samples] = {}
    changes = Changes(size)

    async def series(bed: AgentBed, change: Callable[[int], Told]) -> Samples:
        count = FOLLOWED_CHANGES if change == changes.followed else CHANGES
        turns = iter([change(turn * STRIDE % size.services) for turn in range(count)])
        found = Samples([], [], {})
        began = time.monotonic()
        while part := list(islice(turns, -(-count // PARTS))):
            seconds, cpu = await one_by_one(bed, part)
            found.seconds.extend(seconds)
            found.cpu.append(cpu)
            if real:
                with bed.unwatched():
                    await asyncio.to_thread(_add_floors, subject, size, change != changes.moved, found.floors)
                await asyncio.sleep(DISTURBANCE_SECONDS)
            if time.monotonic() - began > MOST_SECONDS and len(found.seconds) >= FEWEST:
                break
        return found

    async with running(subject, size, real=real) as bed:
        await rest()
        if ONE_CHANGE in only:
            found[MOVED] = await series(bed, changes.moved)
            found[ADDED] = await series(bed, changes.added)
            found[FOLLOWED] = await series(bed, changes.followed)
        if BURST in only:
            before = cpu_seconds()
            bursts = [await _burst(bed, changes, size) for _ in range(BURSTS)]
            found[AT_ONCE] = Samples(bursts, [(cpu_seconds() - before) / BURSTS], {})
    return found


async def rest() -> None:
    """Wait until what follows an agent's first sync is over."""
    began = time.monotonic()
    await asyncio.sleep(START_SECONDS - 1)
    while time.monotonic() < began + LONGEST_START_SECONDS:
        before = cpu_seconds()
        await asyncio.sleep(1)
        if cpu_seconds() - before < REST_CPU:
            return


def _add_floors(subject: Subject, size: Size, added: bool, floors: dict[str, list[float]]) -> None:
    """Run each floor once; one that is prepared elsewhere, which takes long, as often as for all parts, once."""
    for floor in subject.change_floors(size, added=added):
        if not floor.apart:
            floors.setdefault(floor.name, []).extend(floor.times(1))
        elif floor.name not in floors:
            floors[floor.name] = floor.times(PARTS)


async def one_by_one(bed: AgentBed, changes: Iterable[Told]) -> tuple[list[float], float]:
    """Make changes when the agent is idle; return the seconds of each, and the CPU seconds of one."""
    seconds: list[float] = []
    before = cpu_seconds()
    for change in changes:
        if change.ahead:
            bed.send(change.ahead)
            await asyncio.sleep(APART_SECONDS)
        seconds.append(await bed.latency(change.key, change.address, change.events))
        await asyncio.sleep(max(PAUSE_SECONDS, REST * seconds[-1]))
    return seconds, (cpu_seconds() - before) / len(seconds)


async def _burst(bed: AgentBed, changes: Changes, size: Size) -> float:
    """Change a thousand times, each Service as often as it takes; return the seconds until all are in."""
    turns = [changes.moved(turn % size.services) for turn in range(BURST_CHANGES)]
    told = [bed.tell(each.key, each.address, each.events) for each in turns]
    last = told[-min(size.services, BURST_CHANGES) :]  # What came before them of the same Services is overtaken.
    arrivals = await asyncio.gather(*(arrival for _, arrival in last))
    return max(arrivals) - told[0][0]
