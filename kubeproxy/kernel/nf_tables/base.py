"""One table of nf_tables as a backend sees it; the seam between the dataplane and the kernel, or a model of it."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from kubeproxy.kernel.errors import KernelError
from kubeproxy.kernel.nf_tables.types import Chain, Change, Element, Rule, SetSpec
from kubeproxy.model.addresses import Family

NAME = "kube-proxy"
"""What a node's table is called in each family, unless another is meant: as that of upstream's nftables mode."""


class Refused(KernelError):
    """The kernel did nothing of a transaction, or refused a question."""

    def __init__(
        self, code: int, what: str, change: int | None = None, element: int | None = None, done: int = 0
    ) -> None:
        super().__init__(what)
        self.code = code
        """The error number."""
        self.change = change
        """Index of the step that was refused, None when it was the transaction as such."""
        self.element = element
        """Index of the step's element that was refused, None when it is not known or was none."""
        self.done = done
        """How many steps have been done nevertheless: those before a `Split` that was made use of."""


class NfTable(Protocol):
    """One table of one IP family. Blocking; one thread at a time."""

    @property
    def family(self) -> Family:
        """The family whose packets it sees."""
        ...

    def commit(self, changes: Iterable[Change], after: int | None = None) -> int:
        """Do all of it at one moment, or nothing; return how many transactions it took.

        That is one (none for no steps), unless there are steps `Split` and all of it does not fit into one; then
        each of several is done or not. With ``after`` nothing is done (ERESTART) unless that is the generation,
        that is, unless nobody has changed anything since it was read; nor is what follows in further transactions
        when somebody came between. Raises Refused, OSError.
        """
        ...

    def exists(self) -> bool:
        """Return whether there is such a table. Raises Refused when the kernel has no nf_tables, OSError."""
        ...

    def is_dormant(self) -> bool:
        """Return whether somebody has put it to sleep: no packet passes it. False when there is no table."""
        ...

    def handle(self) -> int:
        """Return the number that the kernel knows the table by, 0 when there is none.

        One that is deleted and made anew has another, while the numbers in it begin anew.
        """
        ...

    def chains(self) -> dict[str, Chain]:
        """Return the chains, by name; none when there is no table."""
        ...

    def rules(self, chain: str) -> list[Rule]:
        """Return the rules of a chain, in order; none when there is no such chain."""
        ...

    def numbered_rules(self, chain: str) -> list[tuple[int, Rule]]:
        """Return them, each after the handle that the kernel knows it by; one that is replaced gets another."""
        ...

    def sets(self) -> dict[str, SetSpec]:
        """Return the sets and maps, by name; none when there is no table."""
        ...

    def elements(self, name: str) -> Iterator[Element]:
        """Yield what is in a set.

        Raises netlink.DumpInterrupted when anything changed meanwhile, Refused when there is no such set (ENOENT).
        """
        ...

    def generation(self) -> int:
        """Return the number that every transaction of anybody in this network namespace raises by one.

        One that changes nothing (flushes what is empty, adds elements that are there) leaves it.
        """
        ...
