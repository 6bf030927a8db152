"""Running a program to its end: the one place that imports `subprocess` for it.

Blocking by design: callers are worker threads (a sync must not share a thread with the event loop). A
program's failure is a `CommandFailed` with its first line of complaint, so that nobody above parses stderr.

Each program has a session of its own, so that it is killed with its children: a wrapper that does not `exec`
what it wraps would leave that writing, and our pipes open. So what a terminal sends to the foreground does not
reach it. It is killed when Ctrl-C interrupts the thread that waits for it; a process with signal handlers passes
the signal on (`Programs.signal`), or ends them in its own time (`Programs.end`).
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Sequence
from typing import IO, Protocol

import msgspec

from kubeproxy.kernel.errors import KernelError as KernelError  # for who runs programs
from kubeproxy.kernel.writers import Writers

PIPE_BYTES = 1 << 20
"""What the pipe to a program holds while text is streamed, so that neither side often waits for the other."""


class CommandMissing(KernelError):
    """The program is not installed."""


class CommandFailed(KernelError):
    """The program ended with a status other than 0."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        stderr = stderr.encode(errors="backslashreplace").decode()  # it goes on into logs and JSON
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        super().__init__(f"{' '.join(argv)}: exit status {status}: {lines[0] if lines else 'no message'}")
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a program that ended left behind."""

    status: int
    stdout: str
    stderr: str


class Exec(Protocol):
    """Runs programs."""

    def run(
        self, argv: Sequence[str], *, stdin: str | Iterable[str] = "", check: bool = True, timeout: float = 60.0
    ) -> Result:
        """Run ``argv`` (no shell), feed ``stdin``, wait at most ``timeout`` seconds.

        ``stdin`` may be a stream of pieces: the program reads while later ones are still being made. With
        ``check`` a status other than 0 raises CommandFailed. Raises CommandMissing when there is no such
        program, CommandFailed with status -1 when time ran out, and whatever the stream raises.
        """
        ...


class Programs:
    """Those that run now for this process, so that it can end in time whatever they are at. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._is_ending = False

    def start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start one. Raises CommandMissing; CommandFailed with status -1 behind `end`."""
        with self._lock:
            if self._is_ending:
                raise CommandFailed(argv, -1, "not started, as this process is ending")
            try:
                # Other people's comments come back in whatever encoding they were written in, and go back so.
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    errors="surrogateescape",
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise CommandMissing(f"{argv[0]}: not installed") from None
            self._running.add(process)
            return process

    def ended(self, process: subprocess.Popen[str]) -> None:
        """Note that one has ended."""
        with self._lock:
            self._running.discard(process)

    def end(self) -> list[str]:
        """Kill all that run, with their children, and let none begin any more; return what they are called.

        A restore that is killed before it commits a table has changed nothing of it, and a commit is the kernel's
        work, which is finished whatever becomes of the program.
        """
        with self._lock:
            self._is_ending = True
        return sorted(str(process.args[0]) for process in self.signal(signal.SIGKILL))  # type: ignore[index]

    def signal(self, number: int) -> list[subprocess.Popen[str]]:
        """Send a signal to all that run, and to their children; return them."""
        with self._lock:
            running = [process for process in self._running if process.returncode is None]
        for process in running:
            _signal(process, number)
        return running


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal to a program and its children, unless nobody is left.

    Nothing here may poll(): one that was not waited for keeps its number, which would be somebody else's in time.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


PROGRAMS = Programs()
"""This process's."""


class SystemExec:
    """The real one; ``writers`` are told of the programs, for who listens to what others change."""

    def __init__(self, writers: Writers | None = None, programs: Programs = PROGRAMS) -> None:
        self._writers = writers
        self._programs = programs

    def run(
        self, argv: Sequence[str], *, stdin: str | Iterable[str] = "", check: bool = True, timeout: float = 60.0
    ) -> Result:
        """See `Exec.run`."""
        process = self._programs.start(argv)
        if self._writers is not None:
            self._writers.begin(process.pid)
        try:
            return self._run(process, argv, stdin, check=check, timeout=timeout)
        finally:
            self._programs.ended(process)
            if self._writers is not None:
                self._writers.end(process.pid)

    def _run(
        self,
        process: subprocess.Popen[str],
        argv: Sequence[str],
        stdin: str | Iterable[str],
        *,
        check: bool,
        timeout: float,
    ) -> Result:
        assert process.stdin is not None
        feeder = None
        if not isinstance(stdin, str):
            # communicate() wants the whole input at once; a stream is written beside it, so that output
            # that fills its pipe cannot block the writer.
            with contextlib.suppress(OSError):  # An ordinary user may have used up what pipes may hold.
                fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            feeder = _Feeder(process.stdin, stdin)
            process.stdin = None
            feeder.start()
        try:
            stdout, stderr = process.communicate(stdin if isinstance(stdin, str) else None, timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise CommandFailed(argv, -1, f"did not end within {timeout:g} s") from None
        except BaseException:  # KeyboardInterrupt, above all
            _kill(process)
            raise
        finally:
            if feeder is not None:
                feeder.join()
        if feeder is not None and feeder.error is not None:
            raise feeder.error
        if check and process.returncode:
            raise CommandFailed(argv, process.returncode, stderr)
        return Result(status=process.returncode, stdout=stdout, stderr=stderr)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a program with its children; wait for itself alone: one that left the session may hold the pipes."""
    with process:
        _signal(process, signal.SIGKILL)


class _Feeder(threading.Thread):
    """Writes a stream to a pipe; what the stream itself raises is kept for the caller of `run`."""

    def __init__(self, pipe: IO[str], pieces: Iterable[str]) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._pipe = pipe
        self._pieces = pieces

    def run(self) -> None:
        with contextlib.suppress(BrokenPipeError), self._pipe:
            # A broken pipe is a program that ended early; its status and stderr say why.
            try:
                for piece in self._pieces:
                    self._pipe.write(piece)
                    self._pipe.flush()  # else the end of a piece would wait for all that comes before the next
            except BrokenPipeError:
                raise
            except Exception as error:
                self.error = error
