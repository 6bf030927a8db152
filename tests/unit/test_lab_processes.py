"""Programs that die are started again: at once the first time, slower and slower if they keep dying."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.lab.processes import MAX_DELAY, STEADY_SECONDS, Keeper, Running, Spec, delay

pytestmark = pytest.mark.unit


class FakeProcess:
    """A program that ends when told."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await self.ended


class Machine:
    """Starts fake programs; can refuse."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.refuse = 0

    async def start(self, spec: Spec) -> Running:
        if self.refuse:
            self.refuse -= 1
            raise FileNotFoundError(2, "No such file", spec.argv[0])
        self.started.append(FakeProcess(100 + len(self.started)))
        return self.started[-1]


class Kept:
    def __init__(self, clock: ManualClock, machine: Machine) -> None:
        self.clock = clock
        self.machine = machine
        self.changes: list[str] = []
        spec = Spec(name="program", machine="node1", argv=("program",))
        self.keeper = Keeper(spec, machine.start, clock, lambda: self.changes.append(self.keeper.state))


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    kept = Kept(ManualClock(), Machine())
    task = asyncio.create_task(kept.keeper.run())
    await kept.clock.step(0)
    yield kept
    task.cancel()


def test_the_delay_starts_at_a_tenth_of_a_second_doubles_and_is_bounded() -> None:
    assert [delay(n) for n in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert delay(10_000) == MAX_DELAY


async def test_a_killed_program_is_back_after_a_tenth_of_a_second(kept: Kept) -> None:
    await kept.clock.step(60)
    kept.machine.started[0].ended.set_result(-9)
    await kept.clock.step(0.05)
    assert (kept.keeper.pid, kept.keeper.state) == (0, "Restarting (was killed by signal 9)")
    await kept.clock.step(0.05)
    assert (kept.keeper.pid, kept.keeper.state, kept.keeper.restarts) == (101, "Running", 1)
    assert kept.changes == ["Running", "Restarting (was killed by signal 9)", "Running"]


async def test_a_program_that_keeps_dying_waits_longer_each_time(kept: Kept) -> None:
    for seconds in (0.1, 0.2, 0.4, 0.8):
        number = len(kept.machine.started)
        kept.machine.started[-1].ended.set_result(1)
        await kept.clock.step(seconds - 0.01)
        assert len(kept.machine.started) == number
        await kept.clock.step(0.01)
        assert len(kept.machine.started) == number + 1


async def test_a_steady_run_forgives(kept: Kept) -> None:
    for _ in range(5):
        kept.machine.started[-1].ended.set_result(1)
        await kept.clock.step(MAX_DELAY)
    await kept.clock.step(STEADY_SECONDS)
    number = len(kept.machine.started)
    kept.machine.started[-1].ended.set_result(1)
    await kept.clock.step(0.1)
    assert len(kept.machine.started) == number + 1


async def test_a_program_that_cannot_be_started_is_tried_again(kept: Kept) -> None:
    kept.machine.refuse = 2
    kept.machine.started[-1].ended.set_result(0)
    await kept.clock.step(0.1)
    assert kept.keeper.state.startswith("Restarting (cannot be started: ")
    await kept.clock.step(1.0)
    assert kept.keeper.state == "Running"


def test_what_signs_certificates_is_loaded_by_no_program_of_a_node():
    """A lab waits for ten interpreters at once: 0.1 s of imports is half a second of its start."""
    programs = "import flannel.cli, kubeproxy.lab.controllers, kubeproxy.lab.kubelet, kubeproxy.agent"
    check = f"import sys; {programs}; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
