"""Running a command where a node, a pod, or the machine outside is: `kubeproxy lab exec`.

The process enters the lab's namespaces (of its process 1), forks, because a PID namespace is entered by a child
only, and the child goes on to the target: a machine has its network namespace and its files for /etc, a pod is
whatever the pod's own process has. The parent waits and passes the status on; if it is killed, so is the child.

Where nodes are virtual machines, the command goes to the machine by its socket, which is reached from anywhere.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kubeproxy.kernel import netns
from kubeproxy.lab import guestrun, layout, sandbox, state
from kubeproxy.lab.machine.spec import MachineError
from kubeproxy.lab.state import Lab, LabError, State

_LAB_NAMESPACES = (
    ("user", netns.CLONE_NEWUSER),
    ("mnt", netns.CLONE_NEWNS),
    ("net", netns.CLONE_NEWNET),
    ("uts", netns.CLONE_NEWUTS),
    ("ipc", netns.CLONE_NEWIPC),
    ("pid", netns.CLONE_NEWPID),
)
"""User first: it gives the rights that the others ask for. PID last: what follows it is a fork."""


def machines(lab: Lab) -> tuple[str, ...]:
    """Return the targets that are no pods."""
    return (*layout.node_names(lab.record.nodes), "control", "outside")


def find_pod(lab: Lab, namespace: str, name: str) -> tuple[str, int]:
    """Return a pod's node, and a process of it by its number there. Raises LabError when there is no such pod."""
    state.check_name(namespace)
    if "/" not in name and name not in ("", ".", ".."):
        for node in layout.node_names(lab.record.nodes):
            with contextlib.suppress(FileNotFoundError, ValueError):
                return node, int((layout.pod_directory(node, namespace, name, lab.directory) / "pid").read_text())
    raise LabError(f'pods "{name}" not found in namespace "{namespace}", or not running yet')


def parse_pod(target: str, namespace: str) -> tuple[str, str]:
    """Split `pod/NAME` or `pod/NAMESPACE/NAME`."""
    parts = target.split("/")
    if len(parts) == 2:
        return namespace, parts[1]
    if len(parts) == 3:
        return parts[1], parts[2]
    raise LabError(f'"{target}" is not pod/NAME or pod/NAMESPACE/NAME')


def run(
    lab: Lab, target: str, command: Sequence[str], *, namespace: str = "default", terminal: bool = False
) -> int:
    """Run a command at a target and return its exit status (128 + N after signal N). Raises LabError.

    In a virtual machine it gets a terminal when it is asked for, or when this process is on one.
    """
    if lab.state is State.DEAD or not lab.record.init.alive:
        raise LabError(
            f'lab "{lab.record.name}" does not run; `kubeproxy lab up --name {lab.record.name}` starts it'
        )
    machine, pod = target, 0
    if target.startswith("pod/"):
        machine, pod = find_pod(lab, *parse_pod(target, namespace))
    elif target not in machines(lab):
        raise LabError(f'no machine "{target}" in the lab: there are {", ".join(machines(lab))}, and pod/NAME')
    directory = working_directory()
    os.environ["KUBECONFIG"] = os.fspath(layout.admin_kubeconfig())
    if lab.record.vm != layout.NO_VM and machine in layout.node_names(lab.record.nodes):
        return _run_in_guest(lab, machine, pod, command, directory, terminal)
    _enter_lab(lab.record.init.pid)
    child = os.fork()
    if child:
        return _wait(child)
    return _become(target, pod, command, directory)


def _run_in_guest(lab: Lab, node: str, pod: int, command: Sequence[str], directory: str, terminal: bool) -> int:
    held = layout.console_directory(node, lab.directory)
    on_terminal = terminal or (os.isatty(0) and os.isatty(1))
    try:
        return guestrun.attach(held, guestrun.placed(command, directory, pod), terminal=on_terminal)
    except MachineError as error:
        name = lab.record.name
        raise LabError(f"{node} cannot be reached: {error}; see `kubeproxy lab status {name}`") from None


def working_directory() -> str:
    """Return where the user is; the root when that was removed."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"


def _enter_lab(pid: int) -> None:
    root = Path(f"/proc/{pid}/ns")
    try:
        # All are opened before the first is entered: afterwards /proc is another.
        opened = [
            (name, kind, os.open(root / name, os.O_RDONLY | os.O_CLOEXEC))
            for name, kind in _LAB_NAMESPACES
            if name == "pid" or not netns.is_own_namespace(root / name, name)
        ]
        for name, kind, fd in opened:
            netns.setns(fd, kind)
            os.close(fd)
            if name == "user":
                os.setgid(0)
                os.setuid(0)
    except OSError as error:
        raise LabError(f"cannot enter the lab's namespaces: {error.filename}: {error.strerror}") from None


def _become(target: str, pod: int, command: Sequence[str], directory: str) -> NoReturn:
    try:
        netns.die_with_parent()
        if pod:
            sandbox.join(pid_or_gone(pod))
        else:
            files = layout.node_directory(target)
            sandbox.move_to(
                sandbox.Place(
                    netns=os.fspath(layout.netns_path(target)),
                    hostname=target,
                    resolv_conf=os.fspath(files / "resolv.conf"),
                    hosts=os.fspath(files / "hosts"),
                )
            )
        with contextlib.suppress(OSError):
            os.chdir(directory)
    except OSError as error:
        print(f"ERROR: cannot enter {target}: {error.filename}: {error.strerror}", file=sys.stderr)
        os._exit(sandbox.CANNOT_RUN)
    try:
        sandbox.become(command)
    except SystemExit as end:
        os._exit(int(end.code or 0))


def pid_or_gone(pid: int) -> int:
    """Return ``pid`` if such a process runs in the lab (whose /proc this is), else raise OSError."""
    if state.start_of(pid) is None:
        raise ProcessLookupError(None, "the pod has ended", f"process {pid}")
    return pid


def _wait(child: int) -> int:
    """Wait for the command. The terminal sends its own signals to it; those sent to us are passed on."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
