"""A container's process: started through the launcher, or taken over from a kubelet that was killed.

The kubelet's one module that starts processes. A process is known by its number and its start time together, so
that a number which somebody else has by now is never taken for the container. Its end is seen through a pidfd,
which works for processes that are not our children, too; asyncio would kill its children with the event loop,
and a pod outlives its kubelet.
"""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from kubeproxy.lab.state import start_of

PROJECT = Path(__file__).resolve().parents[2]
RESPONDER = Path(__file__).with_name("responder.py")
UNKNOWN_EXIT = 137
"""What the kubelet reports for a container whose end it did not see."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which process it is, beyond doubt."""

    pid: int
    started: int
    """Field 22 of /proc/PID/stat."""


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container runs."""

    netns: str
    hostname: str
    resolv_conf: str
    hosts: str
    binds: tuple[tuple[str, str], ...] = ()

    def command(self, argv: Sequence[str], working_dir: str = "") -> list[str]:
        """Return the command line that runs ``argv`` there."""
        moved = ["env", f"--chdir={working_dir}", *argv] if working_dir else list(argv)
        return [
            # -E: the variables are the container's, and shall not steer the launcher.
            *(sys.executable, "-E", "-m", "kubeproxy.lab.sandbox"),
            *("--netns", self.netns, "--hostname", self.hostname),
            *("--resolv-conf", self.resolv_conf, "--hosts", self.hosts),
            *(word for source, target in self.binds for word in ("--bind", f"{source}:{target}")),
            "--",
            *moved,
        ]


class ContainerProcess:
    """One running process."""

    def __init__(self, identity: Identity, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.identity = identity
        self._child = child
        self._over = False

    @property
    def pid(self) -> int:
        """Its number."""
        return self.identity.pid

    async def wait(self) -> int:
        """Wait for its end; return the exit code as a shell counts it (128 + signal).

        What it started and left in its session ends with it, as in a container, whose PID namespace goes.
        """
        await _end_of(self.identity)
        if not self._over:
            self._over = True
            # Not reaped yet (or a moment ago, by process 1): the number can be nobody else's.
            self._kill_session()
        if self._child is None:
            return UNKNOWN_EXIT
        status = self._child.wait()
        return status if status >= 0 else 128 - status

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still is that one."""
        if start_of(self.pid) == self.identity.started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_all(self) -> None:
        """Kill it and what it has started in its session; after an end of its own, `wait` does that."""
        if start_of(self.pid) == self.identity.started:
            self._kill_session()

    def _kill_session(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def start(argv: Sequence[str], *, environment: Mapping[str, str], log_file: Path) -> ContainerProcess:
    """Start a container's process in a session of its own. Raises OSError."""
    with log_file.open("ab") as output:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=PROJECT,
                start_new_session=True,
            )
        except ValueError as error:  # A null byte in what the pod's author wrote.
            raise OSError(errno.EINVAL, str(error)) from None
    return ContainerProcess(Identity(pid=child.pid, started=start_of(child.pid) or 0), child)


async def run(argv: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> tuple[int, str]:
    """Run a command to its end; return exit code and the output's tail. Raises OSError, TimeoutError."""
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            cwd=PROJECT,
            start_new_session=True,
        )
    except ValueError as error:  # A null byte in what the pod's author wrote.
        raise OSError(errno.EINVAL, str(error)) from None
    try:
        async with asyncio.timeout(timeout_seconds):
            output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    return child.returncode or 0, output[-1024:].decode(errors="replace")


def adopt(identity: Identity) -> ContainerProcess | None:
    """Take over a process that a former kubelet started, or return None when it is gone."""
    if not identity.pid or start_of(identity.pid) != identity.started:
        return None
    return ContainerProcess(identity)


async def _end_of(identity: Identity) -> None:
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if start_of(identity.pid) == identity.started:
            loop.add_reader(pidfd, ended.set)
            await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def use_pidfds() -> None:
    """Let asyncio watch children through pidfds, as it does by itself from Python 3.12 on: no thread a child."""
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
