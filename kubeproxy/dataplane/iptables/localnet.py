"""The sysctl route_localnet: set where node ports answer on 127.0.0.1, and taken back only by whom it is ours to.

An empty chain in the nat table says that it was off before us. The mark lives where the rules live: a restart of
the agent or of its container keeps it, a reboot, which resets the sysctl, takes it along. Where kube-proxy or
the administrator had set it, there is no mark, and it stays.
"""

from collections.abc import Iterable
from typing import Protocol

from kubeproxy.kernel.sysctl import Sysctls

ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
MARK = "KUBE-PROXY-ROUTE-LOCALNET"

_DECLARE = f":{MARK} - [0:0]\n"


class Tables(Protocol):
    """One flavour's tables of IPv4."""

    def restore(self, text: str | Iterable[str]) -> None:
        """Commit a restore text."""
        ...


class Localnet:
    """The sysctl as one backend wants it; remembers whether it is ours to take back."""

    def __init__(self, tables: Tables, sysctls: Sysctls) -> None:
        self._tables = tables
        self._sysctls = sysctls
        self._is_ours = False

    def follow(self, *, wanted: bool, marked: bool) -> None:
        """Set it, or set it back; ``marked``: whether the nat table has the mark. Raises KernelError, OSError.

        Called after the rules, which keep the wire out of what it opens.
        """
        self._is_ours |= marked
        if wanted:
            if turn_on(self._tables, self._sysctls):
                self._is_ours = True
            elif self._is_ours and not marked:
                leave_mark(self._tables)  # somebody flushed it away
        elif marked:
            self.leave(marked=True)

    def leave(self, *, marked: bool) -> None:
        """Set it back if the mark says that it was off before us. Raises KernelError, OSError."""
        if marked:
            turn_off(self._tables, self._sysctls)
        self._is_ours = False


def turn_on(tables: Tables, sysctls: Sysctls) -> bool:
    """Set it, the mark first, lest we forget; return False when it was set. Raises KernelError, OSError."""
    if sysctls.read(ROUTE_LOCALNET) == "1":
        return False
    leave_mark(tables)
    sysctls.ensure(ROUTE_LOCALNET, "1")
    return True


def leave_mark(tables: Tables) -> None:
    """Leave the mark in these tables."""
    tables.restore(f"*nat\n{_DECLARE}COMMIT\n")


def remove_mark(tables: Tables) -> None:
    """Remove the mark, which must be there."""
    tables.restore(f"*nat\n{_DECLARE}-X {MARK}\nCOMMIT\n")


def turn_off(tables: Tables, sysctls: Sysctls) -> None:
    """Set it back where the mark is found, and remove the mark. Raises KernelError, OSError."""
    sysctls.ensure(ROUTE_LOCALNET, "0")
    remove_mark(tables)
