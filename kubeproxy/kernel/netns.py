"""Namespaces and mounts: the system calls that Python 3.11 has no function for (`os.setns` came with 3.12).

Thin on purpose, and light to import (ctypes only): the launcher of every pod and every program of a lab starts
through here. A refusal is an `OSError` with the call and its operand as the file name, because callers decide
by errno what to tell the user.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Move this process into new namespaces (CLONE_NEWPID: its next child, as process 1)."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int = 0) -> None:
    """Move this process into the namespace behind ``fd`` (CLONE_NEWPID: its next children)."""
    _check(_libc.setns(fd, kind), f"setns({kind:#x})")


def enter(path: str | Path, kind: int) -> None:
    """Move this process into the namespace that ``path`` stands for (`/run/netns/X`, `/proc/PID/ns/net`)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, kind), f"setns({path})")
    finally:
        os.close(fd)


def is_own_namespace(path: str | Path, name: str) -> bool:
    """Say whether ``path`` is the namespace ``name`` ("user", "mnt", ...) that this process is in already."""
    theirs = Path(path).stat()
    own = Path(f"/proc/self/ns/{name}").stat()
    return (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino)


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount, bind (MS_BIND) or change propagation (MS_PRIVATE) at ``target``."""
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, f"mount({kind or 'bind'} on {target})")


def bind(source: str | Path, target: str | Path) -> None:
    """Make ``source`` (a file or a directory with what is mounted below it) appear at ``target`` too."""
    mount(os.fspath(source), target, flags=MS_BIND | MS_REC)


def make_mounts_private() -> None:
    """Let no mount of this namespace be seen by another; to be called first in a new mount namespace."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def write_sysctls(network: str | Path, values: Mapping[str, str]) -> None:
    """Write sysctls ("net.ipv4.ip_forward") in the network namespace ``network``, without leaving one's own.

    /proc/sys/net shows the namespace of the thread that opens it, so a thread of its own goes there and ends.
    """

    refused: list[OSError] = []

    def work() -> None:
        try:
            enter(network, CLONE_NEWNET)
            for key, value in values.items():
                Path("/proc/sys", *key.split(".")).write_text(value)
        except OSError as error:
            refused.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if refused:
        raise refused[0]


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; lost at a change of user."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)), "prctl(PR_SET_PDEATHSIG)")
