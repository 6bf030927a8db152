"""How the agent ends while a program is still writing rules: soon, whatever the program does."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest

from kubeproxy import agent
from kubeproxy.kernel.exec import CommandFailed, Programs, SystemExec
from kubeproxy.options import Options, parse
from kubeproxy.store.credentials import Access

pytestmark = pytest.mark.unit

HANGING = ["sleep", "600"]


class Bed:
    """An agent that does nothing but run one program, in a thread as a sync does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, argv: list[str], signalled: Callable[[], None]) -> None:
        self.programs = Programs()
        self.outcome: Exception | None = None
        self.has_run = False
        self._argv, self._signalled = argv, signalled
        monkeypatch.setattr(agent, "PROGRAMS", self.programs)
        monkeypatch.setattr(agent, "_run", self._run)

    async def _run(self, options: Options, access: Access | None) -> None:
        work = asyncio.create_task(asyncio.to_thread(self._work))
        while not self.programs._running:
            await asyncio.sleep(0)
        self._signalled()
        await work

    def _work(self) -> None:
        try:
            SystemExec(programs=self.programs).run(self._argv)
            self.has_run = True
        except CommandFailed as failed:
            self.outcome = failed

    def end(self) -> float:
        """Let the agent run until it has ended; return the seconds."""
        began = time.monotonic()
        asyncio.run(agent._until_signalled(parse([]), None))
        return time.monotonic() - began


def once() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def twice() -> None:
    once()
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)


def test_a_program_that_hangs_is_killed_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ENDING_SECONDS", 0.1)
    bed = Bed(monkeypatch, HANGING, once)
    assert bed.end() < 10
    assert isinstance(bed.outcome, CommandFailed)
    assert bed.outcome.status == -signal.SIGKILL


def test_a_second_signal_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed(monkeypatch, HANGING, twice)
    assert bed.end() < agent.ENDING_SECONDS
    assert isinstance(bed.outcome, CommandFailed)


def test_a_program_that_ends_in_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed(monkeypatch, ["sleep", "0.3"], once)
    assert bed.end() < agent.ENDING_SECONDS
    assert bed.has_run
    assert bed.outcome is None


def test_no_program_is_started_by_a_process_that_is_ending() -> None:
    programs = Programs()
    assert programs.end() == []
    with pytest.raises(CommandFailed, match="not started, as this process is ending"):
        SystemExec(programs=programs).run(["true"])
