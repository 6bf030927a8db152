"""Running a command on a node that is a virtual machine, with this process's input, output and variables.

    python -m kubeproxy.lab.guestrun DIRECTORY COMMAND...            (a node's program, by the lab's supervisor)

DIRECTORY is where the machine is held (`layout.console_directory`). When this process ends, the command is killed.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kubeproxy.lab.machine import client
from kubeproxy.lab.machine.spec import MachineError

NO_MACHINE = 125
_PROJECT = Path(__file__).resolve().parents[2]


def placed(command: Sequence[str], directory: str, pod: int = 0) -> list[str]:
    """Return what starts a command inside in ``directory``, if that is there, and where process ``pod`` is."""
    where = [f"--process={pod}"] if pod else []
    # From _PROJECT, without site packages: it is a good part of a second less in there.
    return [
        sys.executable,
        "-E",
        "-S",
        "-m",
        "kubeproxy.lab.sandbox",
        *where,
        f"--chdir={directory}",
        "--",
        *command,
    ]


def attach(held: Path, command: Sequence[str], *, terminal: bool = False) -> int:
    """Run it and return its status (128 + N after signal N). Raises MachineError when no machine is held there."""
    return client.attach(held, command, terminal=terminal, env=dict(os.environ), cwd=os.fspath(_PROJECT))


def main(argv: Sequence[str]) -> int:
    """Do what the command line says."""
    held, *command = argv
    try:
        return attach(Path(held), command)
    except MachineError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return NO_MACHINE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
