"""What nf_tables is asked to hold: tables, chains, rules, sets, maps, and the steps of a transaction. Pure values.

Names are those of the `nft` program and of linux/netfilter/nf_tables.h. Keys and data of elements are the kernel's
bytes already (`fields.py` packs them), since there are hundreds of thousands of them.
"""

from collections.abc import Sequence
from enum import Enum, StrEnum

from kubeproxy.kernel.nf_tables.expressions import Decide, Expression
from kubeproxy.model.objects import Record


class Hook(StrEnum):
    """Where the kernel calls a base chain."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


class Base(Record, frozen=True):
    """What makes a chain a base chain; its policy is accept."""

    kind: str
    """`filter`, `nat` or `route`."""
    hook: Hook
    priority: int


class Chain(Record, frozen=True):
    """A chain; without a base it is only reached from other rules."""

    name: str
    base: Base | None = None
    comment: str = ""


class Rule(Record, frozen=True):
    """A rule at the end of its chain."""

    chain: str
    expressions: tuple[Expression, ...]
    comment: str = ""


class Field(Enum):
    """A part of a key or of data, with the type that `nft` shows. Each begins at a multiple of four bytes."""

    ADDRESS = "ip daddr"
    """Four or sixteen bytes, by the table's family."""
    PROTOCOL = "meta l4proto"
    PORT = "th dport"
    SLOT = "numgen random mod 2"
    """An index, in the host's byte order."""
    CLASS = "meta priority"
    """32 bits in the host's byte order, which `nft` writes as `major:minor`."""


VERDICTS = "verdict"


class SetSpec(Record, frozen=True, kw_only=True):
    """A set, or with ``data`` a map."""

    name: str
    key: tuple[Field, ...]
    data: tuple[Field, ...] | str | None = None
    """Fields, or `VERDICTS`; None for a set."""
    interval: bool = False
    """Whether its last field is a range: an element then has an end (`Element.end`)."""
    dynamic: bool = False
    """Whether rules add to it; its elements then end by themselves."""
    size: int = 0
    """Most elements, 0 without limit."""
    comment: str = ""


class Element(Record, frozen=True):
    """A member of a set, or a pair of a map."""

    key: bytes
    data: bytes | Decide | None = None
    comment: str = ""
    end: bytes | None = None
    """The last key of an interval."""


class Change(Record, frozen=True):
    """One step of a transaction; its kinds follow."""


class AddTable(Change, frozen=True):
    """Make the table unless it is there."""

    comment: str = ""


class DeleteTable(Change, frozen=True):
    """Delete the table with all that is in it; it must be there."""


class AddChain(Change, frozen=True):
    """Make a chain unless it is there."""

    chain: Chain


class FlushChain(Change, frozen=True):
    """Delete the rules of a chain."""

    name: str


class DeleteChain(Change, frozen=True):
    """Delete a chain that has no rules and that nothing leads to."""

    name: str


class AddRule(Change, frozen=True):
    """Put a rule at the end of its chain."""

    rule: Rule


class AddSet(Change, frozen=True):
    """Make a set or map unless it is there."""

    spec: SetSpec


class FlushSet(Change, frozen=True):
    """Delete all elements."""

    name: str


class DeleteSet(Change, frozen=True):
    """Delete a set that no rule refers to."""

    name: str


class AddElements(Change, frozen=True):
    """Put elements in; one that is there already with other data is refused (EEXIST)."""

    set: str
    elements: Sequence[Element]


class DeleteElements(Change, frozen=True):
    """Take elements out, by their keys; one that is not there is refused (ENOENT)."""

    set: str
    elements: Sequence[Element]
