"""A machine for the one who boots it: it lives as long as this object, and never longer than this process."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from kubeproxy.lab.machine import client
from kubeproxy.lab.machine.client import Completed
from kubeproxy.lab.machine.spec import MachineError, Spec
from kubeproxy.lab.machine.warden import STOP_SECONDS

LOG = "warden.log"
"""In a machine's directory: why it ended, if it did so by itself."""


class Report(msgspec.Struct, omit_defaults=True):
    """What a warden says on its standard output, once: how long the boot took, or why there is no machine."""

    seconds: float = 0.0
    release: str = ""
    error: str = ""


def arguments(spec: Spec, directory: str | Path) -> list[str]:
    """Return the command that holds a machine until it is sent SIGTERM."""
    argv = [sys.executable, "-P", "-m", "kubeproxy.lab.machine", "boot", f"--directory={directory}"]
    argv += [f"--name={spec.name}", f"--memory={spec.memory}", f"--boot-seconds={spec.boot_seconds:g}"]
    argv += [f"--nic={nic.tap},{nic.mac}" for nic in spec.nics]
    argv += [f"--share={path}" for path in spec.shared]
    argv += [f"--kernel={spec.kernel}"] if spec.kernel else []
    return [*argv, f"--netns={spec.netns}"] if spec.netns else argv


class Machine:
    """A running machine. Methods may be called from any thread; `attach` from the main one."""

    def __init__(self, warden: subprocess.Popen[bytes], directory: Path, report: Report) -> None:
        self._warden = warden
        self.directory = directory
        self.boot_seconds = report.seconds
        self.release = report.release

    @classmethod
    def boot(cls, spec: Spec, directory: str | Path) -> "Machine":
        """Boot and wait until a command can be run. ``directory`` (made if need be) gets the console's log.

        Raises MachineError, with the console's last lines where there are any.
        """
        Path(directory).mkdir(parents=True, exist_ok=True)
        with Path(directory, LOG).open("wb") as log:
            warden = subprocess.Popen(
                [*arguments(spec, directory), "--lifeline", "--report"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert warden.stdout is not None
        line = warden.stdout.readline()
        report = (
            msgspec.json.decode(line, type=Report)
            if line
            else Report(error=f"machine {spec.name}: its warden was killed")
        )
        if report.error:
            _end(warden)
            raise MachineError(report.error)
        return cls(warden, Path(directory), report)

    @property
    def pid(self) -> int:
        """The process that holds the machine; when it ends, the machine does."""
        return self._warden.pid

    @property
    def alive(self) -> bool:
        """Whether it is still held."""
        return self._warden.poll() is None

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        timeout: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """See `client.run`; a MachineError ends with the machine's last words."""
        try:
            return client.run(
                self.directory, argv, stdin=stdin, env=env, cwd=cwd, timeout=timeout, on_output=on_output
            )
        except MachineError as error:
            raise MachineError(self._last_words() or str(error)) from None

    def attach(self, argv: Sequence[str], *, terminal: bool = False) -> int:
        """See `client.attach`."""
        return client.attach(self.directory, argv, terminal=terminal)

    def _last_words(self) -> str:
        """Return what the warden said when the machine ended under it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._warden.wait(STOP_SECONDS)
        with contextlib.suppress(OSError):
            return (self.directory / LOG).read_text(errors="replace").strip().removeprefix("ERROR: ")
        return ""

    def stop(self) -> None:
        """Power it off."""
        _end(self._warden)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _end(warden: subprocess.Popen[bytes]) -> None:
    assert warden.stdin is not None
    assert warden.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        warden.stdin.close()
    try:
        warden.wait(STOP_SECONDS + 5.0)
    except subprocess.TimeoutExpired:
        warden.kill()
        warden.wait()
    warden.stdout.close()
