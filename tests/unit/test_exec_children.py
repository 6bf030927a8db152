"""Programs that leave their work to children, as wrappers do: these end with them, however it comes to that."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubeproxy.kernel.exec import CommandFailed, KernelError, Programs, SystemExec
from tests.waiting import until

pytestmark = pytest.mark.unit

SECONDS = 60
"""How long a child runs that nobody ends."""
PATIENCE = 30
"""How long anything else may take; who waits for the child to end by itself fails by it."""


class Wrapper:
    """A shell that waits for its child, which holds its pipes and tells its number."""

    def __init__(self, directory: Path) -> None:
        self.programs = Programs()
        self._file = directory / "child"
        self.argv = ["sh", "-c", f"sh -c 'echo $$ > {self._file}; exec sleep {SECONDS}'; true"]

    def run(self, timeout: float = 60.0) -> None:
        SystemExec(programs=self.programs).run(self.argv, timeout=timeout)

    def begin(self) -> "InThread":
        """Run it in a thread, as syncs do; return when its child runs."""
        thread = InThread(self.run)
        self.child()
        return thread

    def child(self) -> int:
        """Wait for the child's number."""
        return int(until(lambda: self._file.exists() and self._file.read_text().strip()))

    def is_child_alive(self) -> bool:
        return is_alive(self.child())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class InThread(threading.Thread):
    """Keeps what comes of it."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.failure: KernelError | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except KernelError as failure:
            self.failure = failure


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    return Wrapper(tmp_path)


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Do to the main thread what Ctrl-C does, also where SIGINT is ignored, as in a shell's background."""
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.timeout(PATIENCE)
def test_when_time_runs_out(wrapper: Wrapper) -> None:
    with pytest.raises(CommandFailed, match="did not end within 2 s"):
        wrapper.run(timeout=2)
    until(lambda: not wrapper.is_child_alive())


def test_when_all_are_to_end(wrapper: Wrapper) -> None:
    thread = wrapper.begin()
    assert wrapper.programs.end() == ["sh"]
    until(lambda: not thread.is_alive())
    assert isinstance(thread.failure, CommandFailed)
    assert thread.failure.status == -signal.SIGKILL
    until(lambda: not wrapper.is_child_alive())


def test_when_the_wrapper_itself_is_gone(wrapper: Wrapper) -> None:
    wrapper.argv[-1] = wrapper.argv[-1].replace("; true", " &")
    thread = wrapper.begin()
    until(lambda: not is_alive(os.getsid(wrapper.child())))
    assert wrapper.programs.end() == ["sh"]
    until(lambda: not thread.is_alive())
    until(lambda: not wrapper.is_child_alive())


def test_when_a_signal_is_passed_on(wrapper: Wrapper) -> None:
    thread = wrapper.begin()
    assert len(wrapper.programs.signal(signal.SIGTERM)) == 1
    until(lambda: not thread.is_alive())
    assert isinstance(thread.failure, CommandFailed)
    SystemExec(programs=wrapper.programs).run(["true"])  # as what was set up is to be removed


@pytest.mark.timeout(PATIENCE)
def test_when_who_waits_is_interrupted(wrapper: Wrapper, interrupt: Callable[[], None]) -> None:
    def press() -> None:
        wrapper.child()
        interrupt()

    keyboard = threading.Thread(target=press, daemon=True)
    keyboard.start()
    with pytest.raises(KeyboardInterrupt):
        wrapper.run()
    keyboard.join()
    until(lambda: not wrapper.is_child_alive())


@pytest.mark.timeout(PATIENCE)
def test_one_that_left_the_session_and_holds_the_pipes_is_not_waited_for(wrapper: Wrapper) -> None:
    wrapper.argv[-1] = f"setsid {wrapper.argv[-1]}"
    try:
        with pytest.raises(CommandFailed, match="did not end within 2 s"):
            wrapper.run(timeout=2)
    finally:
        os.kill(wrapper.child(), signal.SIGKILL)
