"""A command inside the guest: its process, its pipes or terminal, and how their bytes go to the host and back."""

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import termios
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from kubeproxy.lab.machine import frames
from kubeproxy.lab.machine.frames import CHUNK_BYTES, WINDOW_BYTES, Frame, Kind

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "linux"}
"""What a command has beside what its client gives."""

NOT_FOUND, CANNOT_RUN = 127, 126


class Session:
    """One command. ``send`` takes frames' bytes; descriptors are watched by ``poll``, whose data are callables."""

    def __init__(
        self, number: int, asked: Mapping[str, Any], send: Callable[[bytes], None], poll: selectors.BaseSelector
    ) -> None:
        self._number = number
        self._send = send
        self._poll = poll
        self._credit = WINDOW_BYTES
        self._pending = bytearray()
        self._input_ends = False
        self._terminal = bool(asked.get("tty"))
        self._killed_before = killed_for_memory()
        theirs = self._open_terminal(asked) if self._terminal else self._open_pipes()
        self.pid = os.fork()
        if not self.pid:
            _become(asked, theirs, self._terminal)
        for descriptor in set(theirs):
            os.close(descriptor)
        for descriptor in {self._input, *self._outputs}:
            os.set_blocking(descriptor, False)
        self._watched: set[int] = set()
        self._watch()

    def _open_terminal(self, asked: Mapping[str, Any]) -> tuple[int, int, int]:
        master, slave = os.openpty()
        _resize(master, asked.get("rows", 24), asked.get("columns", 80))
        self._input = master
        self._outputs = {master: Kind.OUTPUT}
        return slave, slave, slave

    def _open_pipes(self) -> tuple[int, int, int]:
        (stdin, self._input), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        self._outputs = {out: Kind.OUTPUT, err: Kind.ERROR_OUTPUT}
        return stdin, stdout, stderr

    def take(self, frame: Frame) -> None:
        """Act on a frame for this command."""
        if frame.kind is Kind.INPUT:
            self._pending += frame.body
            self._input_ends = self._input_ends or not frame.body
            self._write()
        elif frame.kind is Kind.CREDIT:
            self._credit += frames.count(frame)
            self._watch()
        elif frame.kind is Kind.SIGNAL:
            self._signal(frame.body[0])
        elif frame.kind is Kind.WINDOW and self._terminal:
            _resize(self._input, *frames.size(frame))
        elif frame.kind is Kind.CLOSE:
            self._signal(signal.SIGKILL)

    def end(self, status: int) -> None:
        """Tell the rest of the output and the status, of a process that was reaped; close everything.

        What others of its making still write is not waited for.
        """
        for descriptor in tuple(self._outputs):
            self._credit = 1 << 30  # What is left fits into a pipe.
            while descriptor in self._outputs and self._read(descriptor):
                pass
        for descriptor in {self._input, *self._outputs} - {-1}:
            self._forget(descriptor)
            os.close(descriptor)
        self._outputs, self._input = {}, -1  # An event that was found together with this end finds nothing.
        self._pending.clear()
        self._send(
            frames.encode_json(
                Kind.EXIT,
                self._number,
                status=status if status >= 0 else 128 - status,
                out_of_memory=killed_for_memory() > self._killed_before,
            )
        )

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _watch(self) -> None:
        """Watch for what can be done: read while there is credit, write while there is something to write."""
        for descriptor in {self._input, *self._outputs} - {-1}:
            events = selectors.EVENT_READ if descriptor in self._outputs and self._credit > 0 else 0
            if descriptor == self._input and self._pending:
                events |= selectors.EVENT_WRITE
            self._forget(descriptor)
            if events:
                self._watched.add(descriptor)
                self._poll.register(descriptor, events, lambda d=descriptor: self._ready(d))

    def _forget(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            self._poll.unregister(descriptor)

    def _ready(self, descriptor: int) -> None:
        if descriptor == self._input and self._pending:
            self._write()
        if descriptor in self._outputs and self._credit > 0:
            self._read(descriptor)

    def _read(self, descriptor: int) -> bool:
        """Pass on what can be read; say whether there may be more."""
        try:
            data = os.read(descriptor, min(CHUNK_BYTES, self._credit))
        except BlockingIOError:
            return False
        except OSError:  # a terminal that nobody holds any more
            data = b""
        if not data:
            del self._outputs[descriptor]
            self._forget(descriptor)
            if descriptor != self._input:
                os.close(descriptor)
            return False
        self._credit -= len(data)
        self._send(frames.encode(Frame(self._outputs[descriptor], self._number, data)))
        if self._credit <= 0:
            self._watch()
        return True

    def _write(self) -> None:
        """Give the command what it takes of its input; the end of it when all was given."""
        while self._pending and self._input >= 0:
            try:
                written = os.write(self._input, self._pending[:CHUNK_BYTES])
            except BlockingIOError:
                break
            except OSError:  # nobody reads it any more
                written = len(self._pending)
            del self._pending[:written]
            self._send(frames.counted(Kind.CREDIT, self._number, written))
        if self._input_ends and not self._pending and self._input >= 0:
            self._end_input()
        self._watch()

    def _end_input(self) -> None:
        if self._terminal:
            self._input_ends = False
            with contextlib.suppress(OSError):
                os.write(self._input, b"\x04")
            return
        self._forget(self._input)
        os.close(self._input)
        self._input = -1


def killed_for_memory() -> int:
    """Return how many processes the kernel has killed for want of memory."""
    with Path("/proc/vmstat").open() as counters:
        for line in counters:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _become(asked: Mapping[str, Any], descriptors: tuple[int, int, int], terminal: bool) -> NoReturn:
    """Become the command, in the forked child."""
    status = CANNOT_RUN
    try:
        os.setsid()
        for wanted, descriptor in enumerate(descriptors):
            os.dup2(descriptor, wanted)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        argv = asked["argv"]
        try:
            with contextlib.suppress(OSError):  # The caller's directory may not be one of the guest's.
                os.chdir(asked.get("cwd") or "/")
            os.execvpe(argv[0], argv, {**ENVIRONMENT, **asked.get("env", {})})  # noqa: S606  (no shell is what is wanted)
        except FileNotFoundError:
            status = NOT_FOUND
            os.write(2, f"{argv[0]}: not found\n".encode())
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(status)
