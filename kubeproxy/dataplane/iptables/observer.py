"""What the tables held before a full sync, read while the text for it is already streaming."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from kubeproxy.dataplane.iptables.jumps import NOTHING, Saved
from kubeproxy.dataplane.iptables.tables import saved_in


class Tables(Protocol):
    """The iptables programs, as far as reading goes."""

    def save(self, table: str) -> str:
        """Return `iptables-save` of one table."""
        ...

    def in_use(self) -> frozenset[str]:
        """Return the tables that somebody uses."""
        ...


class Observer:
    """Reads what the kernel holds, in threads of its own."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="iptables-save")
        self._reading: dict[str, Future[Saved]] = {}

    def start(self) -> None:
        """Begin reading the tables that somebody has made: a program is started for each. Raises OSError."""
        used = self._tables.in_use()
        self._reading = {
            table: self._threads.submit(self._read, table) for table in ("nat", "filter") if table in used
        }

    def saved(self, table: str) -> Saved:
        """Return what a table held before this sync. Raises KernelError."""
        reading = self._reading.get(table)
        return NOTHING if reading is None else reading.result()

    def __enter__(self) -> "Observer":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def _read(self, table: str) -> Saved:
        return saved_in(table, self._tables.save(table))
