"""Starting a lab's programs on their machines: by the launcher in a namespace, or inside a virtual machine.

A `Starter` is what the supervisor knows of the difference. Virtual machines are programs of their own
(`machine-node1`), which are kept running like the others: one that dies boots again, and then its node's programs,
which have ended with it, start again.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

import msgspec

from kubeproxy.lab import guestplan, layout
from kubeproxy.lab.machine import client
from kubeproxy.lab.machine.machine import Report
from kubeproxy.lab.machine.spec import CONSOLE, SOCKET, MachineError, last_lines
from kubeproxy.lab.processes import Running, Spec

SET_UP_SECONDS = 60.0
LAST_LINES = 6


class Starter(Protocol):
    """How the nodes of one lab come up, and how programs start on them."""

    def machines(self) -> tuple[Spec, ...]:
        """Return the programs that are nodes themselves."""
        ...

    async def start(self, spec: Spec) -> Running:
        """Start a program where it belongs; wait until that is there. Raises OSError."""
        ...

    def is_up(self, node: str) -> bool:
        """Say whether programs can be started on a node."""
        ...

    def last_words(self, spec: Spec) -> tuple[str, ...]:
        """Return what the console of a machine says, if the program is one that holds a machine."""
        ...


def log_file(program: str) -> Path:
    """Return where a program's output goes."""
    return layout.INSIDE / "logs" / f"{program}.log"


class Namespaces:
    """Nodes are network namespaces, which the lab's network has made."""

    def machines(self) -> tuple[Spec, ...]:
        """There are none: see `Starter`."""
        return ()

    async def start(self, spec: Spec) -> Running:
        """See `Starter`."""
        argv = [
            *(sys.executable, "-m", "kubeproxy.lab.sandbox"),
            *(f"--netns={layout.netns_path(spec.machine)}", f"--hostname={spec.machine}", "--", *spec.argv),
        ]
        with log_file(spec.name).open("ab") as output:
            return await _spawn(argv, spec, output, output)

    def is_up(self, node: str) -> bool:
        """See `Starter`."""
        return True

    def last_words(self, spec: Spec) -> tuple[str, ...]:
        """See `Starter`."""
        return ()


class Guests:
    """Nodes are virtual machines; whatever else there is, is a namespace."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._up = {node: asyncio.Event() for node in nodes}
        self._others = Namespaces()

    def machines(self) -> tuple[Spec, ...]:
        """See `Starter`."""
        return tuple(guestplan.program_of(node) for node in self._up)

    def is_up(self, node: str) -> bool:
        """See `Starter`."""
        return self._up[node].is_set()

    async def start(self, spec: Spec) -> Running:
        """See `Starter`."""
        up = self._up.get(spec.machine)
        if up is None:
            return await self._others.start(spec)
        if guestplan.is_machine(spec):
            return await self._boot(spec, up)
        await up.wait()
        directory = os.fspath(layout.console_directory(spec.machine))
        with log_file(spec.name).open("ab") as output:
            argv = [sys.executable, "-m", "kubeproxy.lab.guestrun", directory, *spec.argv]
            return await _spawn(argv, spec, output, output)

    def last_words(self, spec: Spec) -> tuple[str, ...]:
        """See `Starter`."""
        if not guestplan.is_machine(spec):
            return ()
        try:
            console = (layout.console_directory(spec.machine) / CONSOLE).read_text(errors="replace")
        except OSError:
            return ()
        return tuple(last_lines(console, LAST_LINES))

    async def _boot(self, spec: Spec, up: asyncio.Event) -> Running:
        """Boot a node's machine and set it up."""
        await asyncio.to_thread(_forget_former, spec.machine)
        with log_file(spec.name).open("ab") as output:
            process = await _spawn(spec.argv, spec, subprocess.PIPE, output)
        try:
            assert process.stdout is not None
            line = await process.stdout.readline()
            report = msgspec.json.decode(line, type=Report) if line else Report(error="its holder was killed")
            if report.error:
                raise OSError(report.error.partition("\n")[0])
            await asyncio.to_thread(set_up, spec.machine)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        up.set()
        return _Held(process, spec.machine, up)


class _Held:
    """A machine that is up, as a program that runs."""

    def __init__(self, process: asyncio.subprocess.Process, node: str, up: asyncio.Event) -> None:
        self._process = process
        self._node = node
        self._up = up

    @property
    def pid(self) -> int:
        """The process that holds it."""
        return self._process.pid

    async def wait(self) -> int:
        """See `Running`; from then on nothing is started on the node until it has booted again."""
        status = await self._process.wait()
        self._up.clear()
        return status


async def _spawn(
    argv: Sequence[str], spec: Spec, output: IO[bytes] | int, complaints: IO[bytes]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=complaints,
        pass_fds=spec.sockets,
        env={**os.environ, **spec.environment},
    )


def _forget_former(node: str) -> None:
    """Remove what a kernel that is gone has left: a socket without a machine, pods without processes."""
    (layout.console_directory(node) / SOCKET).unlink(missing_ok=True)
    (layout.node_directory(node) / "subnet.env").unlink(missing_ok=True)
    shutil.rmtree(layout.kubelet_directory(node), ignore_errors=True)


def set_up(node: str) -> None:
    """Make of a machine that has booted a node. Blocking; raises OSError."""
    script = guestplan.set_up_script(node).encode()
    try:
        done = client.run(layout.console_directory(node), ["sh", "-s"], stdin=script, timeout=SET_UP_SECONDS)
    except MachineError as error:
        raise OSError(str(error)) from None
    if done.status:
        complaint = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        raise OSError(f"{node} could not be set up: {complaint}")
