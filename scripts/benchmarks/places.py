"""Where a mode is measured: on this kernel, or, for ipvs mode, inside a User-Mode Linux machine that has IPVS.

Either way in a process and a network namespace of its own. The machine is booted once for all sizes.
"""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import msgspec
from figures import Row, Size
from namespace import alone, run_inside

from kubeproxy.lab.machine.machine import Machine
from kubeproxy.lab.machine.spec import MachineError, Spec

INSIDE, IN_TURN = (str(Path(__file__).with_name(name)) for name in ("inside.py", "in_turn.py"))
IN_MACHINE = ("ipvs",)
MEMORY = "3G"
"""It is given as it is touched; 30,000 Services need half of it."""
MODULES = (
    "modprobe -a ipv6 nf_conntrack ip_vs ip_vs_rr dummy veth xt_set ip_set_hash_ip ip_set_hash_ipport "
    "ip_set_hash_netport"
)
TIMEOUT_SECONDS = 3600.0


class Places:
    """Runs measurements; a context manager, for the machine's sake."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._machine: Machine | None = None

    def __enter__(self) -> "Places":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def run(self, mode: str, size: Size, only: Sequence[str], *, slow: bool) -> list[Row]:
        """Measure one mode at one size; raises what the measurement did, as far as that can be told."""
        flags = ["--slow"] if slow else []
        return self._run(mode, INSIDE, f"--size={size}", f"--only={','.join(only)}", *flags)

    def in_turn(self, mode: str, sizes: Sequence[Size]) -> list[Row]:
        """Measure one change in one mode, at all sizes in turn; raises as `run` does."""
        return self._run(mode, IN_TURN, f"--sizes={','.join(map(str, sizes))}")

    def _run(self, mode: str, file: str, *arguments: str) -> list[Row]:
        if mode in IN_MACHINE:
            return figures.decode(self._in_machine(file, f"--mode={mode}", *arguments))
        return msgspec.convert(run_inside(file, f"--mode={mode}", *arguments), list[Row])

    def _in_machine(self, *argv: str) -> bytes:
        machine = self._machine = self._machine or self._booted()
        try:
            done = machine.run(
                alone(*argv),
                env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
                timeout=TIMEOUT_SECONDS,
            )
        except (MachineError, TimeoutError):
            self._machine = None  # The next measurement has another.
            self._stack.close()
            raise
        if done.status:
            why = "out of memory" if done.out_of_memory else f"status {done.status}"
            raise MachineError(f"inside the machine: {why}\n{done.stderr.decode()}")
        return done.stdout

    def _booted(self) -> Machine:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        machine = self._stack.enter_context(Machine.boot(Spec(name="bench", memory=MEMORY), directory))
        machine.run(["sh", "-c", MODULES], timeout=60)
        return machine
