"""What others have changed in the table, as the kernel told it, each thing as it was last told to be. Pure.

As much is remembered as is undone sooner one by one than by comparing all that is there with all that should be.
"""

from kubeproxy.kernel.nf_tables.element_messages import decode_elements
from kubeproxy.kernel.nf_tables.object_messages import Undecodable, decode_chain
from kubeproxy.kernel.nf_tables.types import Element
from kubeproxy.kernel.notice_messages import TableNotice

MOST_EDITS = 2_000


class Edits:
    """See the module."""

    def __init__(self) -> None:
        self.chains: dict[str, bool] = {}
        """Chains that came, went or were altered, and whether they are there."""
        self.base_chains: set[str] = set()
        """Those of the chains that were told to be base chains."""
        self.sets: dict[str, bool] = {}
        """Sets that came or went, and whether they are there."""
        self.rules: set[str] = set()
        """Chains whose rules are not what they were."""
        self.elements: dict[str, dict[bytes, Element | None]] = {}
        """Elements that came or went, by set and key; None for one that is not there."""
        self.is_beyond = False
        """Whether there is more: too much, or of the table itself, or what cannot be read."""
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, change: TableNotice) -> None:
        """Note a change."""
        self._count += 1
        self.is_beyond |= self._count > MOST_EDITS
        if self.is_beyond:
            return
        match change.what:
            case "chain":
                self._add_chain(change)
            case "set":
                self.sets[change.name] = not change.is_gone
            case "rule":
                self.rules.add(change.name)
            case "element":
                self._add_elements(change)
            case _:
                self.is_beyond = True

    def _add_chain(self, change: TableNotice) -> None:
        self.chains[change.name] = not change.is_gone
        if change.is_gone:
            return
        try:
            if decode_chain(change.body).base is not None:
                self.base_chains.add(change.name)
        except Undecodable:
            self.is_beyond = True

    def _add_elements(self, change: TableNotice) -> None:
        known = self.elements.setdefault(change.name, {})
        try:
            for element in decode_elements(change.body):
                known[element.key] = None if change.is_gone else element
        except Undecodable:
            self.is_beyond = True
