"""Process 1 of a lab: makes the namespaces, starts the supervisor, reaps, and takes everything with it.

    python -m kubeproxy.lab.init --directory D --control-fd N --listen-fd M

Started by `lab up` in a fresh process, because only a process without threads may enter a user namespace. It
unshares, forks process 1 of the new PID namespace, records that process in lab.json and ends. When process 1
ends, for whatever reason, the kernel ends every process of the lab, and with them go its mounts, its network
namespaces and their interfaces: nothing of a lab has a name outside. So there is one rule for trouble: when the
supervisor ends, process 1 ends.

The control socket is the creator's lifeline: the lab reports its progress there as JSON lines, and ends when
the other side closes it, unless "detach" came before (`lab up`, once all is ready).
"""

import argparse
import contextlib
import errno
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from kubeproxy.kernel import netns
from kubeproxy.lab import layout, state

NAMESPACES = netns.CLONE_NEWNS | netns.CLONE_NEWNET | netns.CLONE_NEWPID | netns.CLONE_NEWUTS | netns.CLONE_NEWIPC

_TAIL_LINES = 5
"""How much of a log explains a failure."""

NO_RIGHT = """no right to make namespaces ({what}).
Run it as root (sudo), or allow user namespaces to ordinary users:
  Ubuntu 24.04: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
  Debian:       sudo sysctl -w kernel.unprivileged_userns_clone=1
  elsewhere:    sudo sysctl -w user.max_user_namespaces=10000
In a container, give it the capability SYS_ADMIN (docker run --privileged)."""


class Report(msgspec.Struct, omit_defaults=True):
    """One line on the control socket: a step that begins or is done, all ready, or why it cannot be.

    A warning tells of a part of the lab that is missing, while the rest goes on.
    """

    step: str = ""
    seconds: float | None = None
    """How long the step took; None when it begins."""
    ready: bool = False
    error: str = ""
    warning: str = ""


def send(control: socket.socket, report: Report) -> None:
    """Write one line to the creator; one who is not listening any more is no trouble."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        control.sendall(msgspec.json.encode(report) + b"\n")


def explain(error: OSError) -> str:
    """Return what to tell a user whom the kernel refuses a namespace or a mount."""
    what = f"{error.filename}: {error.strerror}"
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EINVAL, errno.ENOSYS):
        return NO_RIGHT.format(what=what)
    return f"cannot make the lab's namespaces: {what}"


def tail(log: Path) -> str:
    """Return the last lines of a log, which may not be there."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    except FileNotFoundError:
        return ""


def make_namespaces() -> None:
    """Leave every namespace of the host; an ordinary user becomes root of a user namespace for it."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        netns.unshare(NAMESPACES)
        return
    netns.unshare(NAMESPACES | netns.CLONE_NEWUSER)
    # The kernel lets an ordinary user map only himself, and his group once setgroups is given up.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1\n")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1\n")


def make_mounts(directory: Path) -> None:
    """Give the lab its own /proc and /run, and its directory at a fixed place in it."""
    netns.make_mounts_private()
    netns.mount("proc", "/proc", "proc", netns.MS_NOSUID | netns.MS_NODEV | netns.MS_NOEXEC)
    # The directory may lie below /run, which is about to be covered: hold it open meanwhile.
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    netns.mount("tmpfs", "/run", "tmpfs", netns.MS_NOSUID | netns.MS_NODEV, "mode=755")
    layout.INSIDE.mkdir()
    netns.bind(f"/proc/self/fd/{held}", layout.INSIDE)
    os.close(held)
    for name in ("/etc/resolv.conf", "/etc/hosts"):
        # systemd-resolved's resolv.conf points into /run: its target must exist to be bound over.
        target = Path(os.path.realpath(name))
        if not target.exists() and target.is_relative_to("/run"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()


def start_supervisor(control: int, listen: int) -> int:
    """Start the supervisor with the two inherited sockets; its output goes to its log."""
    log = layout.INSIDE / "logs/supervisor.log"
    argv = [sys.executable, "-m", "kubeproxy.lab.supervisor", f"--control-fd={control}", f"--listen-fd={listen}"]
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.fspath(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, argv, os.environ, file_actions=files)


def watch(supervisor: int, control: socket.socket) -> str:
    """Reap, until the supervisor ends or the creator's end of the control socket closes; return why."""
    wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listening = [wake, control.fileno()]
    while True:
        # Reap before waiting: a child may have ended before the handler stood.
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == supervisor:
                return f"the lab's supervisor ended with status {os.waitstatus_to_exitcode(ended[1])}"
        ready, _, _ = select.select(listening, [], [])
        if wake in ready:
            os.read(wake, 4096)
        if control.fileno() in ready:
            if not control.recv(64).startswith(b"detach"):
                return "the command that made the lab ended"
            listening.remove(control.fileno())


def process_one(directory: Path, control: socket.socket, listen: int) -> NoReturn:
    """Be process 1 until the lab ends."""
    os.setsid()
    try:
        make_mounts(directory)
    except OSError as error:
        send(control, Report(error=explain(error)))
        os._exit(1)
    for descriptor in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    reason = watch(start_supervisor(control.fileno(), listen), control)
    send(control, Report(error=f"{reason}\n{tail(layout.INSIDE / 'logs/supervisor.log')}".strip()))
    os._exit(1)


def main(argv: Sequence[str]) -> int:
    """Make the namespaces, fork process 1, record it."""
    parser = argparse.ArgumentParser(prog="kubeproxy.lab.init", allow_abbrev=False)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--control-fd", required=True, type=int)
    parser.add_argument("--listen-fd", required=True, type=int)
    given = parser.parse_args(argv)
    control = socket.socket(fileno=given.control_fd)
    lab = state.read(given.directory)
    assert lab is not None
    try:
        make_namespaces()
    except OSError as error:
        send(control, Report(error=explain(error)))
        return 1
    recorded, record_writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(record_writer)
        if os.read(recorded, 1):
            process_one(given.directory, control, given.listen_fd)
        os._exit(1)  # Nobody knows of this process: it must not stay.
    owner = state.Owner(pid=pid, started=state.start_of(pid) or 0)
    state.write(given.directory / state.RECORD, msgspec.structs.replace(lab.record, init=owner))
    os.write(record_writer, b"1")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
