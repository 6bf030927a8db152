"""What others have changed in the table, as the kernel told it, each thing as it was last told to be. Pure.

As much is remembered as is undone sooner one by one than by comparing all that is there with all that should be.
"""

from kubeproxy.dataplane.nftables.sets import spec_named
from kubeproxy.kernel.nf_tables.element_messages import decode_elements
from kubeproxy.kernel.nf_tables.object_messages import Undecodable, decode_chain, is_anonymous
from kubeproxy.kernel.nf_tables.types import Element
from kubeproxy.kernel.notice_messages import TableNotice

MOST_EDITS = 2_000


class Edits:
    """See the module."""

    def __init__(self) -> None:
        self.chains: dict[str, bool] = {}
        """Chains that came, went or were altered, and whether they are there; none that came as part of a rule."""
        self.base_chains: set[str] = set()
        """Those of the chains that were told to be base chains."""
        self.sets: dict[str, bool] = {}
        """Sets that came or went, and whether they are there; none that is part of a rule."""
        self.rules: set[str] = set()
        """Chains whose rules are not what they were."""
        self.elements: dict[str, dict[bytes, Element | None]] = {}
        """Elements of sets of ours that came or went, by set and key; None for one that is not there."""
        self._bound_chains: set[str] = set()
        """Those that did, with rules of their own."""
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
        try:
            self._add(change)
        except Undecodable:
            self.is_beyond = True

    def _add(self, change: TableNotice) -> None:
        match change.what:
            case "chain":
                self._add_chain(change)
            case "set":
                if change.is_gone or not is_anonymous(change.body):
                    self.sets[change.name] = not change.is_gone
            case "rule":
                if change.name not in self._bound_chains:
                    self.rules.add(change.name)
            case "element":
                if spec_named(change.name) is not None:
                    self._add_elements(change)
            case _:
                self.is_beyond = True

    def _add_chain(self, change: TableNotice) -> None:
        chain = None if change.is_gone else decode_chain(change.body)
        if chain is not None and chain.bound:
            self._bound_chains.add(change.name)
        if change.name in self._bound_chains:
            return
        self.chains[change.name] = not change.is_gone
        if chain is not None and chain.base is not None:
            self.base_chains.add(change.name)

    def _add_elements(self, change: TableNotice) -> None:
        known = self.elements.setdefault(change.name, {})
        for element in decode_elements(change.body):
            known[element.key] = None if change.is_gone else element
