"""What a machine shall be, what its process 1 is told, and what its last words mean. Pure."""

import re
from collections.abc import Mapping, Sequence

import msgspec

CONSOLE, SOCKET, KERNEL_DIRECTORY = "console.log", "exec.sock", "kernel"
"""Names in a machine's directory."""

_MEMORY = re.compile(r"[1-9][0-9]*[MG]")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DUMP = re.compile(
    r" ?\[<|( ?[0-9a-f]{8,16})+ *$|Stack:|Call Trace:|CPU: |SELinux: |mmapper_init|Failed to initialize ubd"
)
_WORD = re.compile(r"[A-Za-z0-9._-]{1,63}")


class MachineError(Exception):
    """The machine cannot be had, or is gone; the text says why and what to do."""


class Nic(msgspec.Struct, frozen=True):
    """A network device of the machine, `vec0`, `vec1`... inside: the other end of a tap that the caller made."""

    tap: str
    mac: str


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """A machine."""

    name: str = "machine"
    """In messages, and its host name."""
    memory: str = "256M"
    """What the kernel may use; the host gives it as it is touched (User-Mode Linux: out of /dev/shm)."""
    kernel: str = ""
    """A directory with a User-Mode Linux kernel (scripts/build-uml-kernel), or with Debian's own, to run under
    QEMU (scripts/fetch-kernel); "" for Debian's User-Mode Linux."""
    nics: tuple[Nic, ...] = ()
    netns: str = ""
    """Path of the network namespace that the taps are in; "" for the caller's."""
    shared: tuple[str, ...] = ()
    """Directories of the host that a guest writes to; whatever else it writes ends with it."""
    boot_seconds: float = 60.0
    """How long the kernel may take to its first process."""

    def __post_init__(self) -> None:
        """Refuse what would be another word on the kernel's command line. Raises MachineError."""
        if not _WORD.fullmatch(self.name):
            raise MachineError(f'"{self.name}" is no host name')
        if not _MEMORY.fullmatch(self.memory):
            raise MachineError(f'"{self.memory}" is no amount of memory; write 256M or 1G')
        for nic in self.nics:
            if not _WORD.fullmatch(nic.tap) or not _MAC.fullmatch(nic.mac):
                raise MachineError(f'"{nic.tap},{nic.mac}" is no TAP,MAC')
        for path in self.shared:
            if not path.startswith("/") or "," in path:
                raise MachineError(f'"{path}" cannot be shared: give an absolute path without a comma')


def setup(spec: Spec) -> Mapping[str, object]:
    """Return what process 1 is told."""
    return {"hostname": spec.name, "shared": list(spec.shared)}


def last_lines(console: str, most: int) -> list[str]:
    """Return the last lines of a console's log that mean something to a reader: no stack dumps."""
    return [line for line in console.splitlines() if line.strip() and not _DUMP.match(line)][-most:]


def explain_console(lines: Sequence[str]) -> str:
    """Return what in a kernel's last words says why it ended; "" if nothing does."""
    for word, meaning in (
        ("Out of memory and no killable processes", "the machine ran out of memory; give it more (--memory)"),
        ("Failed to initialize vec", "a network device could not be opened; is its tap there, and free?"),
        ("Kernel panic", "its kernel panicked"),
    ):
        if any(word in line for line in lines):
            return meaning
    return ""
