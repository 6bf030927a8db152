"""What the lab's tests share: running the command, and looking at the machine for anything left behind."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "kubeproxy", "lab")
READY_SECONDS = 90

_AS_NOBODY = """
set -e
# The interpreter, or this checkout, may lie below a home that only root may enter: show just the needed places
# in a copy of the mounts that is ours alone, over an empty /root.
interpreter=$1 checkout=$2; shift 2
hold=$(mktemp -d) && mount -t tmpfs hold "$hold"
for place in "$interpreter" "$checkout"; do
    case $place in /root/*) mkdir -p "$hold$place" && mount --bind "$place" "$hold$place";; esac
done
mount -t tmpfs -o mode=755 home /root
for place in "$interpreter" "$checkout"; do
    case $place in /root/*) mkdir -p "$place" && mount --move "$hold$place" "$place";; esac
done
umount "$hold" && rmdir "$hold"
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all -- "$@"
"""


def as_nobody(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command line that runs ``command`` as an ordinary user, from root."""
    places = (sys.base_prefix, str(PROJECT))
    return ("unshare", "--mount", "sh", "-c", _AS_NOBODY, "sh", *places, *command)


class Labs:
    """`kubeproxy lab` with a place for its labs of its own."""

    def __init__(self, directory: Path, prefix: Callable[[tuple[str, ...]], tuple[str, ...]] = tuple) -> None:
        self.directory = directory
        self._prefix = prefix
        self.environment = {
            **os.environ,
            "KUBEPROXY_LAB_DIR": str(directory),
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(
        self, *arguments: str, timeout: float = READY_SECONDS, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            self._prefix((*COMMAND, *arguments)),
            env=self.environment,
            cwd="/",
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start one command."""
        return subprocess.Popen(
            self._prefix((*COMMAND, *arguments)),
            env=self.environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def up(self, name: str, *flags: str) -> None:
        """Create a lab and wait until it is ready."""
        made = self.run("up", "--name", name, *flags)
        assert made.returncode == 0, made.stdout + made.stderr

    def exec(self, name: str, target: str, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return self.run("exec", name, target, "--", *command, timeout=30, stdin=stdin)

    def kubectl(self, name: str, *arguments: str, stdin: str = "") -> str:
        """Run the real kubectl as a user would, with what `lab env` says."""
        line = self.run("env", name).stdout.strip()
        assert line.startswith("export KUBECONFIG=")
        done = subprocess.run(
            ["sh", "-c", f'{line}; exec kubectl "$@"', "sh", *arguments],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> set[int]:
        """Return every process of any lab made here, by its environment."""
        mark = f"KUBEPROXY_LAB_DIR={self.directory}\0".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                        found.add(int(entry.name))
                except OSError:
                    continue  # Ended meanwhile.
        return found


def host_sight() -> frozenset[str]:
    """Return what a leak would show in: this machine's network namespaces, interfaces, routes and mounts."""
    looks = {
        "namespace": ["ip", "netns", "list"],
        "interface": ["ip", "-o", "link", "show"],
        "route": ["ip", "route", "show", "table", "all"],
        "mount": ["findmnt", "--noheadings", "--list", "--output", "TARGET"],
    }
    seen = set()
    for kind, argv in looks.items():
        for line in subprocess.run(argv, capture_output=True, text=True).stdout.splitlines():
            name = line.split(":")[1].strip() if kind == "interface" else line.strip()
            seen.add(f"{kind} {name}")
    return frozenset(seen)


def leaked(before: frozenset[str]) -> frozenset[str]:
    """Return what shows on the machine that did not before; what another test removed meanwhile is not ours."""
    return host_sight() - before
