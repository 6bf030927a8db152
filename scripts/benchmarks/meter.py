"""What a piece of work costs this process and the programs that it runs."""

import resource
import time
from collections.abc import Callable
from pathlib import Path


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended, the kernel's share included."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_mib(pid: int | str = "self") -> float:
    """Return the most memory that a process has had resident."""
    return _memory(pid, "VmHWM")


def resident_mib(pid: int | str = "self") -> float:
    """Return the memory that a process has resident now."""
    return _memory(pid, "VmRSS")


def _memory(pid: int | str, field: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 1024
