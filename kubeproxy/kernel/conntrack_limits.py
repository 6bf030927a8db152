"""The kernel's limits on connection tracking, set at the agent's start (upstream's `conntrack` configuration).

Most of them belong to a network namespace. How many connections there may be, and the size of the hash table that
finds them, are the whole machine's and can be set from its first namespace alone: an agent in another one (a node
of the lab, or of kind) reads what there is, and tells when it is too little. Upstream ends there, and kind's
configuration switches the limit off.
"""

import contextlib
import os
from pathlib import Path
from typing import Protocol

from kubeproxy.kernel.conntrack import KernelConntrack
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.sysctl import SysctlRefused, Sysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.conntrack_limits import MAX, ConntrackLimits

HASHSIZE = Path("/sys/module/nf_conntrack/parameters/hashsize")
ENTRIES_PER_BUCKET = 4
"""So many connections may share a bucket before the table is made larger; upstream's figure."""


class Machine(Protocol):
    """What of connection tracking belongs to the machine rather than to a namespace."""

    @property
    def cpus(self) -> int:
        """How many CPUs are in use."""
        ...

    def load(self) -> None:
        """Have the kernel load connection tracking if it has not; it may be unable to."""
        ...

    def buckets(self) -> int:
        """Return the hash table's size. Raises OSError."""
        ...

    def resize(self, buckets: int) -> None:
        """Make a new hash table of that size. Raises OSError."""
        ...


class ThisMachine:
    """The real one."""

    cpus = os.cpu_count() or 1

    def load(self) -> None:
        """See `Machine.load`."""
        with contextlib.suppress(KernelError, OSError):
            KernelConntrack(Family.V4).size()  # whoever speaks to a missing part of netfilter has it loaded

    def buckets(self) -> int:
        """See `Machine.buckets`."""
        return int(HASHSIZE.read_text())

    def resize(self, buckets: int) -> None:
        """See `Machine.resize`."""
        HASHSIZE.write_text(str(buckets))


class FakeMachine:
    """A machine in two attributes; ``refusal`` is raised by whoever touches the hash table."""

    def __init__(self, cpus: int = 2, buckets: int = 65536, refusal: OSError | None = None) -> None:
        self.cpus = cpus
        self.size = buckets
        self.refusal = refusal
        self.loads = 0

    def load(self) -> None:
        """See `Machine.load`."""
        self.loads += 1

    def buckets(self) -> int:
        """See `Machine.buckets`."""
        return self.size

    def resize(self, buckets: int) -> None:
        """See `Machine.resize`."""
        if self.refusal is not None:
            raise self.refusal
        self.size = buckets


def ensure_limits(sysctls: Sysctls, machine: Machine, limits: ConntrackLimits) -> list[str]:
    """Set what differs; return what could not be had though the agent may start, in sentences for the log.

    Raises SysctlRefused when the kernel refuses a limit that is this namespace's to set: as upstream, better than
    to run for months with limits that nobody asked for.
    """
    notes = []
    wanted = limits.entries(machine.cpus)
    if wanted:
        if not sysctls.read(MAX):
            machine.load()
        notes = _ensure_entries(sysctls, machine, wanted)
    for name, value in limits.sysctls().items():
        sysctls.ensure(name, value)
    return notes


def _ensure_entries(sysctls: Sysctls, machine: Machine, wanted: int) -> list[str]:
    now = sysctls.read(MAX)
    if not now:
        raise SysctlRefused(f"sysctl {MAX}={wanted}: this kernel tracks no connections; modprobe nf_conntrack")
    if not sysctls.is_settable(MAX):
        if int(now) >= wanted:
            return []
        advice = f"it can be set in the machine's first network namespace: sysctl -w {MAX}={wanted}"
        return [f"{MAX} is {now}, {wanted} are wanted; {advice}"]
    sysctls.ensure(MAX, str(wanted))
    try:
        if machine.buckets() < wanted // ENTRIES_PER_BUCKET:
            machine.resize(wanted // ENTRIES_PER_BUCKET)
    except (OSError, ValueError) as error:
        # Connections are found all the same, only slower. Container runtimes mount /sys read-only.
        why = error.strerror if isinstance(error, OSError) else str(error)
        return [f"{HASHSIZE} stays below {wanted // ENTRIES_PER_BUCKET} ({why}): much traffic will be slow"]
    return []
