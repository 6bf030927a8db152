"""Holding a machine: the host's process that boots the kernel, relays commands to it, and ends with it.

The kernel lives in a PID namespace whose first process the kernel of the host kills when the warden ends, however
that comes about. One thread; nothing here waits for a client, because frames carry their own flow control.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubeproxy.kernel import netns
from kubeproxy.lab.machine import frames, kernels, spec
from kubeproxy.lab.machine.frames import Decoder, Frame, FrameError, Kind
from kubeproxy.lab.machine.spec import CONSOLE, SOCKET, MachineError, Spec

STOP_SECONDS = 10.0
"""How long a machine may take to power off before it is killed."""
_LAST_LINES = 12
_READ_BYTES = 65536


class Warden:
    """One machine, from boot to its end."""

    def __init__(self, wanted: Spec, directory: Path) -> None:
        self._spec = wanted
        self._directory = directory
        self._kernel: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._clients: dict[int, asyncio.StreamWriter] = {}
        self._sessions = 0
        self._waiting = bytearray()
        self._room = frames.LINE_BYTES
        self._heard: dict[Kind, asyncio.Future[Mapping[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._command: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.release = ""
        """The kernel's version, once it has booted."""

    async def boot(self) -> float:
        """Boot; return how many seconds it took until a command can be run. Raises MachineError; `stop` then."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        self._heard = {kind: loop.create_future() for kind in (Kind.HELLO, Kind.READY)}
        ours, theirs = socket.socketpair()
        with theirs:
            self._kernel = await self._start(theirs.fileno())
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._keep(self._follow(reader))
        await self._await(self._heard[Kind.HELLO], self._spec.boot_seconds)
        self._say(frames.encode_json(Kind.SETUP, 0, **spec.setup(self._spec)))
        ready = await self._await(self._heard[Kind.READY], self._spec.boot_seconds)
        if ready["error"]:
            raise MachineError(f"machine {self._spec.name} could not be set up: {ready['error']}")
        self.release = str(ready["release"])
        self._server = await asyncio.start_unix_server(self._serve, sock=self._bind())
        return time.monotonic() - began

    async def _start(self, line: int) -> asyncio.subprocess.Process:
        self._directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self._directory / SOCKET).unlink()
        argv = kernels.command(self._spec, self._directory, line)
        with (self._directory / CONSOLE).open("wb") as console:
            try:
                return await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    pass_fds=(line,),
                    preexec_fn=netns.die_with_parent,
                    start_new_session=True,  # A ^C is the warden's to act on.
                )
            except OSError as error:
                raise MachineError(f"{argv[0]} cannot be started: {error.strerror}") from None

    async def _await(self, future: asyncio.Future[Mapping[str, Any]], seconds: float) -> Mapping[str, Any]:
        """Wait for what the guest says, unless its kernel ends first or time runs out."""
        assert self._kernel is not None
        ended = asyncio.ensure_future(self._kernel.wait())
        try:
            await asyncio.wait((future, ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            if ended.done():
                raise MachineError(self.last_words(f"ended at boot (status {ended.result()})"))
            raise MachineError(self.last_words(f"did not come up within {seconds:g} s"))
        finally:
            ended.cancel()

    def last_words(self, what: str) -> str:
        """Return a message that ends with what the console showed last."""
        lines: Sequence[str] = ()
        with contextlib.suppress(OSError):
            lines = spec.last_lines((self._directory / CONSOLE).read_text(errors="replace"), _LAST_LINES)
        why = spec.explain_console(lines)
        head = f"machine {self._spec.name} {what}{': ' + why if why else ''}"
        return "\n".join((head, *("  | " + line for line in lines)))

    def _bind(self) -> socket.socket:
        """Open the socket for clients; it is there under its name only when it answers."""
        held = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fresh = f"/proc/self/fd/{held}/{SOCKET}.new"
            with contextlib.suppress(FileNotFoundError):
                Path(fresh).unlink()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(fresh)
            Path(fresh).chmod(0o600)
            listener.listen()
            Path(fresh).rename(self._directory / SOCKET)
            return listener
        finally:
            os.close(held)

    def _say(self, data: bytes, taken: int = 0) -> None:
        """Send to the guest, now or when it has ``taken`` enough of what was sent before."""
        self._waiting += data
        self._room += taken
        piece = bytes(self._waiting[: self._room])
        if piece and self._writer is not None:
            del self._waiting[: len(piece)]
            self._room -= len(piece)
            self._writer.write(piece)

    def _keep(self, work: Any) -> None:
        self._remember(asyncio.get_running_loop().create_task(work))

    def _remember(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        """Pass the guest's frames on until its line ends."""
        decoder = Decoder()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_READ_BYTES):
                try:
                    for frame in decoder.feed(data):
                        self._pass_on(frame)
                except FrameError as error:
                    print(f"machine {self._spec.name}: its line is garbled: {error}", file=sys.stderr)
                    break

    def _pass_on(self, frame: Frame) -> None:
        if frame.kind is Kind.TAKEN:
            self._say(b"", taken=frames.count(frame))
        elif (future := self._heard.get(frame.kind)) is not None:
            if not future.done():
                future.set_result(frames.values(frame) if frame.body else {})
        elif (client := self._clients.get(frame.session)) is not None:
            client.write(frames.encode(frame._replace(session=0)))
            if frame.kind is Kind.EXIT:
                del self._clients[frame.session]
                client.write_eof()
        elif frame.session == 0:
            self._of_command(frame)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one client's command; it is killed when the client goes before its end."""
        task = asyncio.current_task()
        assert task is not None
        self._remember(task)
        self._sessions += 1
        number, decoder = self._sessions, Decoder()
        self._clients[number] = writer
        try:
            with contextlib.suppress(ConnectionError, FrameError):
                while data := await reader.read(_READ_BYTES):
                    for frame in decoder.feed(data):
                        self._say(frames.encode(frame._replace(session=number)))
            if self._clients.pop(number, None) is not None:
                self._say(frames.encode(Frame(Kind.CLOSE, number)))
        finally:
            writer.close()

    def start_command(self, argv: Sequence[str]) -> asyncio.Future[int]:
        """Run the machine's own command, on our standard output; the future has its status."""
        self._say(frames.encode_json(Kind.OPEN, 0, argv=list(argv), cwd=str(Path.cwd())))
        self._say(frames.encode(Frame(Kind.INPUT)))
        return self._command

    def _of_command(self, frame: Frame) -> None:
        if frame.kind in (Kind.OUTPUT, Kind.ERROR_OUTPUT):
            to = sys.stdout if frame.kind is Kind.OUTPUT else sys.stderr
            to.buffer.write(frame.body)
            to.buffer.flush()
            self._say(frames.counted(Kind.CREDIT, 0, len(frame.body)))
        elif frame.kind is Kind.EXIT and not self._command.done():
            self._command.set_result(int(frames.values(frame)["status"]))

    async def ended(self) -> str:
        """Wait until the kernel ends and return what to say about it."""
        assert self._kernel is not None
        return self.last_words(f"ended by itself (status {await self._kernel.wait()})")

    async def stop(self) -> None:
        """Power off; kill what does not."""
        if self._kernel is None:
            return
        with contextlib.suppress(FileNotFoundError):
            (self._directory / SOCKET).unlink()
        if self._kernel.returncode is None and self._writer is not None:
            self._say(frames.encode(Frame(Kind.STOP)))
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(self._kernel.wait(), STOP_SECONDS if self.release else 0.1)
        if self._kernel.returncode is None:
            self._kernel.kill()
            await self._kernel.wait()
        if self._server is not None:
            self._server.close()
        for writer in (self._writer, *self._clients.values()):
            if writer is not None:
                writer.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        shutil.rmtree(self._directory / spec.KERNEL_DIRECTORY, ignore_errors=True)
