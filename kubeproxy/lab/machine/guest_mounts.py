"""What the guest's process 1 mounts: a private root over the host's, and the file systems every program expects.

The kernel has mounted the host's / read-only. Over it goes an overlay whose upper layer is memory; that becomes
the root, and only shared directories are the host's own again.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kubeproxy.kernel import netns

MODULES = "KUBEPROXY_MODULES"
"""The variable that says in which directory of the host the kernel's modules are, by release."""
_MS_MOVE = 0x2000
_SCRATCH = Path("/run")
"""A directory that every host has; what is in it there is covered."""


def make_root(shared: Sequence[str]) -> None:
    """Make the root and move there. Raises OSError, its file name says which step was refused."""
    netns.mount("tmpfs", _SCRATCH, "tmpfs")
    _load("overlay")
    root = _SCRATCH / "root"
    for name in ("root", "upper", "work"):
        (_SCRATCH / name).mkdir()
    netns.mount(
        "overlay", root, "overlay", options=f"lowerdir=/,upperdir={_SCRATCH}/upper,workdir={_SCRATCH}/work"
    )
    nothing = netns.MS_NOSUID | netns.MS_NODEV
    netns.mount("devtmpfs", root / "dev", "devtmpfs", netns.MS_NOSUID)
    for name, options in (("pts", "mode=620,ptmxmode=666"), ("shm", "mode=1777"), ("mqueue", "")):
        (root / "dev" / name).mkdir(exist_ok=True)
        if name != "mqueue":
            netns.mount(name, root / "dev" / name, "devpts" if name == "pts" else "tmpfs", nothing, options)
    netns.mount("proc", root / "proc", "proc", nothing | netns.MS_NOEXEC)
    netns.mount("sysfs", root / "sys", "sysfs", nothing | netns.MS_NOEXEC)
    netns.mount("tmpfs", root / "run", "tmpfs", nothing, "mode=755")
    for path in shared:
        inside = root / path.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        netns.mount("none", inside, "hostfs", options=path)
    os.chdir(root)
    netns.mount(os.fspath(root), "/", flags=_MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def _load(module: str) -> None:
    """Load a module before modprobe finds any by itself: the host's root has no directory for our kernel's."""
    place = _SCRATCH / "modules/lib/modules" / os.uname().release
    place.parent.mkdir(parents=True)
    place.symlink_to(_modules())
    try:
        done = subprocess.run(
            ["/sbin/modprobe", "-d", _SCRATCH / "modules", module], check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise OSError(None, "not found; install Debian's package kmod", "modprobe") from None
    if done.returncode:
        raise OSError(None, done.stderr.strip(), f"modprobe {module}")


def offer_modules() -> None:
    """Put the kernel's modules where modprobe looks for them, also when the kernel itself calls it."""
    place = Path("/lib/modules", os.uname().release)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(_modules())


def _modules() -> Path:
    return Path(os.environ[MODULES], os.uname().release)
