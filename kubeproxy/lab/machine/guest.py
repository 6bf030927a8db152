"""Process 1 of a machine: sets it up, runs what the host asks for, reaps, powers off.

Started by the kernel (`uml`, or `initrd`'s script) without site packages: the standard library and what imports no
more.
Whatever ends it ends the machine, with a traceback on the console, which the host keeps.
"""

import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import socket
import struct
import time
import tty
from collections.abc import Callable
from typing import NoReturn

from kubeproxy.lab.machine import frames, guest_mounts
from kubeproxy.lab.machine.frames import Frame, Kind
from kubeproxy.lab.machine.sessions import Session

LINE = "/dev/ttyS0"
END_SECONDS = 3.0
"""How long programs have to end when the machine is powered off."""

_RB_POWER_OFF = 0x4321FEDC
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


class Guest:
    """The loop: one thread, everything non-blocking but the line, whose other end is always read."""

    def __init__(self, line: int) -> None:
        self._line = line
        self._decoder = frames.Decoder()
        self._poll = selectors.DefaultSelector()
        self._sessions: dict[int, Session] = {}
        self._stopping = False
        wake, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll.register(wake, selectors.EVENT_READ, lambda: self._reap(wake))
        self._poll.register(line, selectors.EVENT_READ, self._hear)

    def send(self, data: bytes) -> None:
        """Write to the host."""
        while data:
            data = data[os.write(self._line, data) :]

    def run(self) -> None:
        """Serve until the host says stop, or is gone."""
        self.send(frames.encode(Frame(Kind.HELLO)))
        while not self._stopping:
            for key, _ in self._poll.select():
                act: Callable[[], None] = key.data
                act()

    def _hear(self) -> None:
        data = os.read(self._line, 65536)
        if not data:
            self._stopping = True
        self.send(frames.counted(Kind.TAKEN, 0, len(data)))
        for frame in self._decoder.feed(data):
            if frame.kind is Kind.STOP:
                self._stopping = True
            elif frame.kind is Kind.SETUP:
                self._set_up(frame)
            elif frame.kind is Kind.OPEN:
                self._open(frame)
            elif session := self._sessions.get(frame.session):
                session.take(frame)

    def _set_up(self, frame: Frame) -> None:
        given = frames.values(frame)
        error = ""
        try:
            guest_mounts.make_root(given["shared"])
            guest_mounts.offer_modules()
            socket.sethostname(given["hostname"])
            _switch_on("lo")
        except OSError as refused:
            error = f"{refused.filename or 'setting up'}: {refused.strerror}"
        self.send(frames.encode_json(Kind.READY, 0, error=error, release=os.uname().release))

    def _open(self, frame: Frame) -> None:
        number = frame.session
        try:
            self._sessions[number] = Session(number, frames.values(frame), self.send, self._poll)
        except OSError as error:
            text = f"cannot start a process: {error.strerror}\n".encode()
            self.send(frames.encode(Frame(Kind.ERROR_OUTPUT, number, text)))
            self.send(frames.encode_json(Kind.EXIT, number, status=126, out_of_memory=False))

    def _reap(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        for pid, status in _ended():
            for number, session in list(self._sessions.items()):
                if session.pid == pid:
                    del self._sessions[number]
                    session.end(os.waitstatus_to_exitcode(status))


def _ended() -> list[tuple[int, int]]:
    """Reap whatever has ended: process 1 is the parent of all that lost theirs."""
    found: list[tuple[int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(ended)
    return found


def _switch_on(device: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("16sH22x", device.encode(), _IFF_UP))


def end_all() -> None:
    """End every other process: politely, then not."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, number)
        while time.monotonic() < deadline:
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.02)
            except ChildProcessError:
                return


def main() -> NoReturn:
    """Be process 1."""
    line = os.open(LINE, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(line)
    Guest(line).run()
    end_all()
    os.sync()
    ctypes.CDLL(None).reboot(_RB_POWER_OFF)
    raise SystemExit("the kernel did not power off")


if __name__ == "__main__":
    main()
