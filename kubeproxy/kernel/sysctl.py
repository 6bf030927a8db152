"""Kernel parameters under /proc/sys, of the network namespace of the calling thread."""

import stat
from pathlib import Path
from typing import Protocol

from kubeproxy.kernel.exec import KernelError

ROOT = Path("/proc/sys")


class SysctlRefused(KernelError):
    """A parameter could not be set; the text says which and what it should be."""


class Sysctls(Protocol):
    """Reads and sets parameters, named with slashes: `net/ipv4/ip_forward`."""

    def read(self, name: str) -> str:
        """Return a parameter's value, "" when this kernel has none of the name."""
        ...

    def ensure(self, name: str, value: str) -> None:
        """Set a parameter unless it has the value already. Raises SysctlRefused."""
        ...

    def is_settable(self, name: str) -> bool:
        """Return whether this network namespace has a say in a parameter: some are the whole machine's."""
        ...


class ProcSysctls:
    """The kernel's own."""

    def read(self, name: str) -> str:
        """See `Sysctls.read`."""
        try:
            return (ROOT / name).read_text().strip()
        except OSError:
            return ""

    def ensure(self, name: str, value: str) -> None:
        """See `Sysctls.ensure`."""
        if self.read(name) == value:
            return
        try:
            (ROOT / name).write_text(value)
        except OSError as error:
            raise SysctlRefused(f"sysctl {name}={value}: {error.strerror}; set it before the start") from error

    def is_settable(self, name: str) -> bool:
        """See `Sysctls.is_settable`. The kernel shows by the file's mode what it keeps for its first namespace."""
        try:
            return bool((ROOT / name).stat().st_mode & stat.S_IWUSR)
        except OSError:
            return False


class FakeSysctls:
    """Parameters in a dictionary."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self.values = dict(values or {})
        self.fixed: set[str] = set()
        """Parameters that this namespace can read only."""
        self.refused: set[str] = set()
        """Parameters whose writing the kernel refuses (a read-only /proc/sys)."""

    def read(self, name: str) -> str:
        """See `Sysctls.read`."""
        return self.values.get(name, "")

    def ensure(self, name: str, value: str) -> None:
        """See `Sysctls.ensure`."""
        if self.read(name) == value:
            return
        if name in self.fixed | self.refused:
            raise SysctlRefused(f"sysctl {name}={value}: Read-only file system; set it before the start")
        self.values[name] = value

    def is_settable(self, name: str) -> bool:
        """See `Sysctls.is_settable`."""
        return name in self.values and name not in self.fixed
