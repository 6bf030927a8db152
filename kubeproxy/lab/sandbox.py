"""The launcher: puts one program where a pod or a machine of the lab is, and becomes it.

    python -m kubeproxy.lab.sandbox --netns /run/netns/node1 [--hostname node1] [--resolv-conf F] [--hosts F]
        [--bind SOURCE:TARGET]... [--pid-file F] [--chdir D] -- PROGRAM ARGUMENT...
    python -m kubeproxy.lab.sandbox --process PID [--chdir D] -- PROGRAM ARGUMENT...

With only --netns the program shares the lab's mounts, so network namespaces that it names are seen by all. Any
file of its own (--resolv-conf, --hosts, --bind) gives it a private mount namespace. A --bind target that does not
exist is made in an overlay over the nearest directory that does, never on the host's disk. --process is a pod's:
the program runs where that one does. Every start of a pod pays for what is imported here: ctypes and argparse,
nothing else.
"""

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from kubeproxy.kernel import netns

CANNOT_RUN = 126
NOT_FOUND = 127
_POD_NAMESPACES = (("mnt", netns.CLONE_NEWNS), ("net", netns.CLONE_NEWNET), ("uts", netns.CLONE_NEWUTS))


class Place(NamedTuple):
    """Where a program shall run; what is empty stays as it is for the caller."""

    netns: str = ""
    hostname: str = ""
    resolv_conf: str = ""
    hosts: str = ""
    binds: tuple[tuple[str, str], ...] = ()


def move_to(place: Place) -> None:
    """Move this process to ``place``. Raises OSError, its file name says which step was refused."""
    if place.binds or place.resolv_conf or place.hosts:
        netns.unshare(netns.CLONE_NEWNS)
        netns.make_mounts_private()
        covers: set[int] = set()
        for source, target in place.binds:
            _bind_anywhere(Path(source), Path(target), covers)
        if place.resolv_conf:
            netns.bind(place.resolv_conf, os.path.realpath("/etc/resolv.conf"))
        if place.hosts:
            netns.bind(place.hosts, os.path.realpath("/etc/hosts"))
    if place.netns:
        netns.enter(place.netns, netns.CLONE_NEWNET)
    if place.hostname:
        netns.unshare(netns.CLONE_NEWUTS)
        socket.sethostname(place.hostname)


def join(pid: int) -> None:
    """Move this process to where a pod's process is. Raises OSError."""
    root = Path(f"/proc/{pid}/ns")
    opened = [(kind, os.open(root / name, os.O_RDONLY | os.O_CLOEXEC)) for name, kind in _POD_NAMESPACES]
    for kind, descriptor in opened:
        netns.setns(descriptor, kind)
        os.close(descriptor)


def _bind_anywhere(source: Path, target: Path, covers: set[int]) -> None:
    """Bind, making the target if need be. ``covers``: devices of our overlays; a second one would hide binds."""
    if not target.exists():
        existing = next(parent for parent in target.parents if parent.is_dir())
        if existing.stat().st_dev not in covers:
            _cover(existing)
            covers.add(existing.stat().st_dev)
        if source.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    netns.bind(source, target)


def _cover(directory: Path) -> None:
    """Lay an overlay whose changes are kept in memory over a directory of the host."""
    if directory == Path("/"):
        raise OSError(
            None, "a new top-level directory cannot be made for a volume; mount it below one that exists"
        )
    scratch = Path("/run/overlay") / str(os.getpid())
    scratch.mkdir(parents=True, exist_ok=True)
    netns.mount("overlay", scratch, "tmpfs")
    (scratch / "upper").mkdir()
    (scratch / "work").mkdir()
    options = f"lowerdir={directory},upperdir={scratch}/upper,workdir={scratch}/work"
    netns.mount("overlay", directory, "overlay", options=options)


def become(command: Sequence[str]) -> NoReturn:
    """Replace this process by ``command``; a command that cannot run ends it with a shell's 127 or 126."""
    try:
        os.execvp(command[0], list(command))  # noqa: S606 (no shell is what is wanted)
    except FileNotFoundError:
        print(f"{command[0]}: command not found", file=sys.stderr)
        sys.exit(NOT_FOUND)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(CANNOT_RUN)


def _pair(text: str) -> tuple[str, str]:
    source, colon, target = text.partition(":")
    if not colon or not target.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE:TARGET with an absolute TARGET")
    return source, target


def main(argv: Sequence[str]) -> NoReturn:
    """Parse, move, write the pid file, become the program."""
    parser = argparse.ArgumentParser(prog="kubeproxy.lab.sandbox", allow_abbrev=False)
    parser.add_argument("--netns", default="", metavar="PATH")
    parser.add_argument("--hostname", default="")
    parser.add_argument("--resolv-conf", default="", metavar="FILE")
    parser.add_argument("--hosts", default="", metavar="FILE")
    parser.add_argument("--bind", action="append", default=[], type=_pair, metavar="SOURCE:TARGET")
    parser.add_argument("--pid-file", default="", metavar="FILE")
    parser.add_argument("--process", type=int, default=0, metavar="PID")
    parser.add_argument("--chdir", default="", metavar="DIRECTORY", help="if it is there")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(argv)
    place = Place(
        netns=given.netns,
        hostname=given.hostname,
        resolv_conf=given.resolv_conf,
        hosts=given.hosts,
        binds=tuple(given.bind),
    )
    try:
        if given.process:
            join(given.process)
        move_to(place)
    except OSError as error:
        print(f"sandbox: {error.filename or 'cannot move'}: {error.strerror}", file=sys.stderr)
        sys.exit(CANNOT_RUN)
    if given.pid_file:
        # Written whole, then named: a reader never sees half a number.
        fresh = Path(f"{given.pid_file}.new")
        fresh.write_text(f"{os.getpid()}\n")
        fresh.replace(given.pid_file)
    if given.chdir:
        with contextlib.suppress(OSError):
            os.chdir(given.chdir)
    become(given.command)


if __name__ == "__main__":
    main(sys.argv[1:])
