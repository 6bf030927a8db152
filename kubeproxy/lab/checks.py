"""What a lab needs of the machine, looked at before anything is made, each lack with what to do about it."""

import errno
import os
import shutil
import sys
from pathlib import Path

PROGRAMS = {"ip": "iproute2", "iptables-restore": "iptables"}
"""Programs that a lab cannot do without, and the Debian packages that have them."""

TUN = Path("/dev/net/tun")


def search_path() -> str:
    """Return PATH with this installation's programs first, and with sbin, which ordinary users lack on Debian."""
    own = str(Path(sys.executable).parent)
    given = os.environ.get("PATH", os.defpath).split(os.pathsep)
    rest = [path for path in (*given, "/usr/sbin", "/sbin") if path != own]
    return os.pathsep.join(dict.fromkeys((own, *rest)))


def lacks(overlay: str) -> tuple[str, ...]:
    """Return one line for each thing that this machine lacks for a lab with that overlay."""
    path = search_path()
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None}
    lines = []
    if missing:
        packages = " ".join(sorted(missing))
        lines.append(f"programs are missing: install them with `apt-get install {packages}`")
    if overlay == "udp":
        lines += _tun_lacks()
    return tuple(lines)


def _tun_lacks() -> list[str]:
    try:
        # Opening it makes no device; it only shows whether one could be made.
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = f"run as root, have root do `chmod 666 {TUN}`, or use --overlay vxlan"
        else:
            remedy = "have root do `modprobe tun`, or use --overlay vxlan"
        return [f"--overlay udp needs {TUN}: {error.strerror}; {remedy}"]
    return []
