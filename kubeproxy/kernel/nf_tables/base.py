"""One table of nf_tables as a backend sees it; the seam between the dataplane and the kernel, or a model of it."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.nf_tables.types import Chain, Change, Element, Rule, SetSpec
from kubeproxy.model.addresses import Family


class Refused(KernelError):
    """The kernel did nothing of a transaction."""

    def __init__(self, code: int, what: str, change: int | None = None) -> None:
        """See the class.

        ``change`` is the index of the step that was refused, None when it was the transaction as such.
        """
        super().__init__(what)
        self.code = code
        """The error number."""
        self.change = change


class NfTable(Protocol):
    """One table, `kube-proxy`, of one IP family. Blocking; one thread at a time."""

    @property
    def family(self) -> Family:
        """The family whose packets it sees."""
        ...

    def commit(self, changes: Iterable[Change]) -> None:
        """Do all of it at one moment, or nothing. Raises Refused, OSError."""
        ...

    def exists(self) -> bool:
        """Return whether there is such a table. Raises Refused when the kernel has no nf_tables, OSError."""
        ...

    def chains(self) -> dict[str, Chain]:
        """Return the chains, by name; their comments are not read."""
        ...

    def rules(self, chain: str) -> list[Rule]:
        """Return the rules of a chain, in order."""
        ...

    def sets(self) -> dict[str, SetSpec]:
        """Return the sets and maps, by name; their comments are not read."""
        ...

    def elements(self, name: str) -> Iterator[Element]:
        """Yield what is in a set. Raises netlink.DumpInterrupted when it changed meanwhile."""
        ...

    def generation(self) -> int:
        """Return the number that every transaction of anybody in this network namespace raises by one."""
        ...
