"""What a lab needs of the machine, looked at before anything is made, each lack with what to do about it."""

import errno
import os
import shutil
import sys
from pathlib import Path

from kubeproxy.lab import layout

PROGRAMS = {"ip": "iproute2", "iptables-restore": "iptables"}
"""Programs that a lab cannot do without, and the Debian packages that have them."""

MACHINE_PROGRAMS = {"linux.uml": "user-mode-linux", "modprobe": "kmod"}
"""The same, where nodes are virtual machines."""

MEMORY = Path("/dev/shm")  # noqa: S108 (that is where the kernel of a machine has its memory)
TUN = Path("/dev/net/tun")


def search_path() -> str:
    """Return PATH with this installation's programs first, and with sbin, which ordinary users lack on Debian."""
    own = str(Path(sys.executable).parent)
    given = os.environ.get("PATH", os.defpath).split(os.pathsep)
    rest = [path for path in (*given, "/usr/sbin", "/sbin") if path != own]
    return os.pathsep.join(dict.fromkeys((own, *rest)))


def lacks(overlay: str, vm: str = layout.NO_VM, nodes: int = 0, mode: str = "") -> tuple[str, ...]:
    """Return one line for each thing that this machine lacks for such a lab."""
    path = search_path()
    programs = PROGRAMS if vm == layout.NO_VM else {**PROGRAMS, **MACHINE_PROGRAMS}
    missing = {package for program, package in programs.items() if shutil.which(program, path=path) is None}
    lines = []
    if missing:
        packages = " ".join(sorted(missing))
        lines.append(f"programs are missing: install them with `apt-get install {packages}`")
    if vm == layout.UML and mode == "nftables":
        why = "the kernel of Debian's package has nf_tables for no IP family"
        lines.append(
            f"--mode nftables cannot run with --vm {vm}: {why}; take --vm {layout.NO_VM}, or another mode"
        )
    if vm != layout.NO_VM:
        lines += _tun_lacks(f"--vm {vm}", f"--vm {layout.NO_VM}")
        lines += _memory_lacks(nodes * layout.MACHINE_MIB)
    elif overlay == "udp":
        lines += _tun_lacks("--overlay udp", "--overlay vxlan")
    return tuple(lines)


def _tun_lacks(what: str, instead: str) -> list[str]:
    try:
        # Opening it makes no device; it only shows whether one could be made.
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = f"run as root, have root do `chmod 666 {TUN}`, or use {instead}"
        else:
            remedy = f"have root do `modprobe tun`, or use {instead}"
        return [f"{what} needs {TUN}: {error.strerror}; {remedy}"]
    return []


def _memory_lacks(wanted: int) -> list[str]:
    """Say if there is no room for ``wanted`` MiB: a kernel that runs into the end of it dies without a word."""
    try:
        found = os.statvfs(MEMORY)
    except OSError as error:
        return [f"virtual machines need {MEMORY}: {error.strerror}; mount a tmpfs there"]
    free = found.f_bavail * found.f_frsize >> 20
    if free >= wanted:
        return []
    remedy = "make it larger (`mount -o remount,size=50% /dev/shm`; for a container `--shm-size=2g`)"
    return [
        f"these virtual machines need {wanted} MiB in {MEMORY}, {free} are free: {remedy}, or take fewer nodes"
    ]
