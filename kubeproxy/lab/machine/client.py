"""Running commands inside a machine, from any process of the host: by the socket in the machine's directory.

Blocking, for one command a call; calls from several threads or processes do not disturb one another.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from kubeproxy.lab.machine import frames
from kubeproxy.lab.machine.frames import CHUNK_BYTES, WINDOW_BYTES, Decoder, Frame, Kind
from kubeproxy.lab.machine.spec import SOCKET, MachineError


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that has ended."""

    status: int
    """128 + N after signal N; 127 and 126 as of a shell."""
    stdout: bytes = b""
    stderr: bytes = b""
    out_of_memory: bool = False
    """Whether the guest's kernel killed something for want of memory meanwhile."""


class Call:
    """A command in the making and running."""

    def __init__(self, directory: str | Path) -> None:
        """Connect. Raises MachineError when no machine is held in ``directory``."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._decoder = Decoder()
        self.room = WINDOW_BYTES
        """How many bytes of input the other end takes now."""
        try:
            with _reached(directory) as path:
                self.socket.connect(path)
        except OSError as error:
            self.socket.close()
            raise MachineError(f"no machine runs in {directory}: {error.strerror}") from None

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def open(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        size: tuple[int, int] | None = None,
    ) -> None:
        """Start the command; with a ``size`` (rows, columns) on a terminal."""
        rows, columns = size or (0, 0)
        self.send(
            frames.encode_json(
                Kind.OPEN,
                0,
                argv=list(argv),
                env=dict(env or {}),
                cwd=cwd,
                tty=size is not None,
                rows=rows,
                columns=columns,
            )
        )

    def send(self, data: bytes) -> None:
        """Send frames. Raises MachineError when the machine has gone."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise MachineError(f"the machine has gone: {error.strerror}") from None

    def give(self, data: bytes) -> None:
        """Give input, at most `room` bytes of it; none is its end."""
        self.room -= len(data)
        self.send(frames.encode(Frame(Kind.INPUT, body=data)))

    def take(self) -> Iterator[Frame]:
        """Wait for bytes and yield the frames in them; what is taken is credited. Raises MachineError."""
        try:
            data = self.socket.recv(WINDOW_BYTES)
        except OSError as error:
            raise MachineError(f"the machine has gone: {error.strerror}") from None
        if not data:
            raise MachineError("the machine has gone; its console.log has its last words")
        for frame in self._decoder.feed(data):
            if frame.kind is Kind.CREDIT:
                self.room += frames.count(frame)
                continue
            yield frame
            if frame.kind in (Kind.OUTPUT, Kind.ERROR_OUTPUT):
                with contextlib.suppress(MachineError):  # It may have ended meanwhile; the next take says so.
                    self.send(frames.counted(Kind.CREDIT, 0, len(frame.body)))


@contextlib.contextmanager
def _reached(directory: str | Path) -> Iterator[str]:
    """Yield the socket's path by way of a descriptor: a socket's own path may have 107 bytes only."""
    held = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{held}/{SOCKET}"
    finally:
        os.close(held)


def run(
    directory: str | Path,
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    timeout: float | None = None,
    on_output: Callable[[bytes], None] | None = None,
) -> Completed:
    """Run a command to its end; stdout goes to ``on_output`` as it comes, if given.

    Raises MachineError when the machine goes, TimeoutError after ``timeout`` seconds (the command is then killed).
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    stdout, stderr = bytearray(), bytearray()
    take_output = on_output or stdout.extend
    with Call(directory) as call:
        call.open(argv, env=env, cwd=cwd)
        rest, ended = memoryview(stdin), False
        while True:
            while rest and call.room > 0:
                piece = rest[: min(CHUNK_BYTES, call.room)]
                call.give(bytes(piece))
                rest = rest[len(piece) :]
            if not rest and not ended:
                ended = True
                call.give(b"")
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([call.socket], [], [], left)[0]:
                raise TimeoutError(f"{argv[0]} did not end within {timeout:g} s; it was killed")
            for frame in call.take():
                if frame.kind is Kind.OUTPUT:
                    take_output(frame.body)
                elif frame.kind is Kind.ERROR_OUTPUT:
                    stderr += frame.body
                elif frame.kind is Kind.EXIT:
                    end = frames.values(frame)
                    return Completed(
                        status=end["status"],
                        stdout=bytes(stdout),
                        stderr=bytes(stderr),
                        out_of_memory=end["out_of_memory"],
                    )


def attach(
    directory: str | Path,
    argv: Sequence[str],
    *,
    terminal: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
) -> int:
    """Run a command on this process's standard input and output; return its status.

    With ``terminal`` it has one inside, which has this one's size; ours, if it is one, is raw meanwhile. SIGINT,
    SIGTERM, SIGHUP and SIGQUIT that reach this process are passed on. Main thread only. Raises MachineError.
    """
    with Call(directory) as call, contextlib.ExitStack() as stack:
        own = terminal and os.isatty(0)
        given = dict(env or {})
        if terminal:
            given.setdefault("TERM", os.environ.get("TERM", "linux"))
        call.open(argv, env=given, cwd=cwd, size=(_size() if own else (24, 80)) if terminal else None)
        if own:
            stack.enter_context(_raw())
            stack.enter_context(_handled(signal.SIGWINCH, lambda: call.send(frames.window(0, *_size()))))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            stack.enter_context(_handled(number, lambda n=number: call.send(frames.signalled(0, n))))  # type: ignore[misc]
        return _relay(call)


def _relay(call: Call) -> int:
    listening: list[int] = [0]
    while True:
        wanted: list[socket.socket | int] = [call.socket, *(listening if call.room > 0 else [])]
        ready = select.select(wanted, [], [])[0]
        if 0 in ready:
            data = os.read(0, min(CHUNK_BYTES, call.room))
            call.give(data)
            if not data:
                listening = []
        if call.socket in ready:
            for frame in call.take():
                if frame.kind is Kind.EXIT:
                    end = frames.values(frame)
                    if end["out_of_memory"]:
                        print("the machine ran out of memory meanwhile; give it more", file=sys.stderr)
                    return int(end["status"])
                _write(1 if frame.kind is Kind.OUTPUT else 2, frame.body)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _size() -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _handled(number: int, act: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(number, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(number, before)
