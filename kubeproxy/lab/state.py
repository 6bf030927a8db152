"""What labs there are on this machine: one directory each, a record in it, and whether its process 1 lives.

The directory is claimed under a lock before anything else happens, so a name has one owner; the record names
processes by number and start time, so that a number which the kernel gave to somebody else is never signalled.
A lab whose processes are gone (kill -9, power) is *dead*: `up` may take its name, `down` removes its rest.
"""

import contextlib
import errno
import fcntl
import os
import select
import shutil
import signal
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from kubeproxy.lab import layout
from kubeproxy.model.names import is_label

RECORD = "lab.json"
STATUS = "status.json"
_LOCK_TRIES = 20
END_SECONDS = 20.0
"""How long the kernel may take to end a lab's processes."""


class LabError(Exception):
    """Something that the user must be told in one line; the command ends with status 1."""


class State(StrEnum):
    """What a lab is doing."""

    STARTING = "Starting"
    RUNNING = "Running"
    DEAD = "Dead"


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A process, by its number on the host and the kernel's tick at which it started."""

    pid: int = 0
    started: int = 0

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return self.pid > 0 and start_of(self.pid) == self.started


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """lab.json: what the lab was asked to be, and which processes hold it."""

    name: str
    nodes: int
    mode: str
    overlay: str
    api_port: int
    creator: Owner
    """The `lab up` or `lab demo` that is making it."""
    init: Owner = Owner()
    vm: str = layout.NO_VM
    """What the nodes are: namespaces (`none`), or virtual machines of a kind."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One line of status.json: a program that the supervisor keeps running; ``pid`` is its number inside."""

    name: str
    machine: str
    pid: int
    restarts: int
    state: str
    last_words: tuple[str, ...] = ()
    """What a machine that is down had on its console last."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """status.json: what the supervisor last said."""

    ready: bool = False
    programs: tuple[Program, ...] = ()


class Lab(msgspec.Struct, frozen=True, kw_only=True):
    """A lab as found on disk."""

    directory: Path
    record: Record

    @property
    def state(self) -> State:
        """What it does now."""
        if not self.record.init.alive:
            return State.STARTING if self.record.creator.alive else State.DEAD
        return State.RUNNING if self.status().ready else State.STARTING

    @property
    def kubeconfig(self) -> Path:
        """The file for KUBECONFIG on the host."""
        return self.directory / "kubeconfig"

    def status(self) -> Status:
        """Read what the supervisor last said."""
        try:
            return msgspec.json.decode((self.directory / STATUS).read_bytes(), type=Status)
        except (FileNotFoundError, msgspec.DecodeError):
            return Status()


def start_of(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks since boot; None when it is gone or a zombie."""
    try:
        # The program's name, in parentheses, may hold anything; the fixed fields follow the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def myself() -> Owner:
    """Return this process."""
    return Owner(pid=os.getpid(), started=start_of(os.getpid()) or 0)


def check_name(name: str) -> str:
    """Return ``name`` if a lab may have it, else raise LabError."""
    if not is_label(name):
        raise LabError(f'"{name}" is not a valid lab name: use lower-case letters, digits and "-", at most 63')
    return name


def labs_directory(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return where this user's labs are."""
    if environ.get("KUBEPROXY_LAB_DIR"):
        return Path(environ["KUBEPROXY_LAB_DIR"]).absolute()
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/run/kubeproxy/labs")
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "kubeproxy/labs"
    return Path(environ.get("HOME") or "/").absolute() / ".local/state/kubeproxy/labs"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the lock on the directory of labs, which is made if need be."""
    refusal = OSError(errno.EAGAIN, "others keep removing it")
    for _ in range(_LOCK_TRIES):
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            refusal = error  # FileNotFoundError may be the last lab's `down`, which removed it in between.
            if error.errno == errno.ENOENT:
                continue
            break
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if root.exists() and root.stat().st_ino == os.fstat(fd).st_ino:
                yield
                return
        finally:
            os.close(fd)
    hint = "set KUBEPROXY_LAB_DIR to a directory that you may write"
    raise LabError(f"cannot keep labs in {root}: {refusal.strerror}; {hint}")


def read(directory: Path) -> Lab | None:
    """Return the lab in a directory; None when there is none, a dead one when its record cannot be read."""
    try:
        return Lab(directory=directory, record=msgspec.json.decode((directory / RECORD).read_bytes(), type=Record))
    except (FileNotFoundError, NotADirectoryError):
        if not directory.is_dir():
            return None
    except msgspec.DecodeError:
        pass  # Cut by a crash of the machine; nothing can say what ran, and nothing of it runs now.
    nobody = Owner()
    record = Record(name=directory.name, nodes=0, mode="", overlay="", api_port=0, creator=nobody)
    return Lab(directory=directory, record=record)


def find(name: str) -> Lab:
    """Return the lab of that name, else raise LabError."""
    lab = read(labs_directory() / check_name(name))
    if lab is None:
        raise LabError(f'no lab found with the name "{name}"')
    return lab


def every() -> tuple[Lab, ...]:
    """Return this user's labs, by name."""
    root = labs_directory()
    names = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
    found = (read(root / name) for name in names if is_label(name))
    return tuple(lab for lab in found if lab is not None)


def claim(record: Record) -> Lab:
    """Take the name for this process: make the lab's directory and record. Raises LabError when it is in use."""
    root = labs_directory()
    directory = root / check_name(record.name)
    with _locked(root):
        previous = read(directory)
        if previous is not None:
            if previous.state is not State.DEAD:
                raise LabError(f'failed to create lab: a lab with the name "{record.name}" already exists')
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        (directory / "logs").mkdir()
        lab = Lab(directory=directory, record=record)
        write(directory / RECORD, record)
    return lab


def write(path: Path, value: msgspec.Struct) -> None:
    """Write a record so that a reader, or a crash, never meets half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
    fresh.replace(path)


def remove(lab: Lab) -> None:
    """End every process of a lab and remove its directory; what is gone already is no error."""
    if lab.record.creator != myself():
        end(lab.record.creator, signal.SIGTERM)
    current = read(lab.directory)
    if current is None:
        return
    end(current.record.init, signal.SIGKILL)
    root = lab.directory.parent
    with _locked(root):
        latest = read(lab.directory)
        if latest is not None and latest.record.creator == lab.record.creator:
            shutil.rmtree(lab.directory)
        for directory in (root, root.parent):
            # Leave nothing: but only what this program made, and only when it is empty.
            if directory.name in ("labs", "kubeproxy"):
                with contextlib.suppress(OSError):
                    directory.rmdir()


def end(owner: Owner, number: signal.Signals) -> None:
    """Signal a process, unless it is gone, and wait until it is; raise LabError when it stays."""
    if not owner.alive:
        return
    try:
        fd = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return
    try:
        if not owner.alive:
            return  # The number went to somebody else between the check and the open.
        signal.pidfd_send_signal(fd, number)
        waiter = select.poll()
        waiter.register(fd, select.POLLIN)
        if not waiter.poll(END_SECONDS * 1000):
            raise LabError(f"process {owner.pid} did not end within {END_SECONDS:g} s")
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
