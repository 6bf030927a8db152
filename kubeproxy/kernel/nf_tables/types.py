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
    """What makes a chain a base chain."""

    kind: str
    """`filter`, `nat` or `route`."""
    hook: Hook
    priority: int
    policy: str = "accept"
    """What becomes of a packet that no rule decides on; ours accept."""


class Chain(Record, frozen=True):
    """A chain; without a base it is only reached from other rules."""

    name: str
    base: Base | None = None
    comment: str = ""
    bound: bool = False
    """Whether it is part of a rule (`jump { ... }`), and goes with it; never one of ours."""


class Rule(Record, frozen=True):
    """A rule at the end of its chain."""

    chain: str
    expressions: tuple[Expression, ...]
    comment: str = ""


class Field(Enum):
    """A part of a key or of data, with the type that `nft` shows. Each begins at a multiple of four bytes."""

    ADDRESS = "ip daddr"
    """Four or sixteen bytes, by the table's family."""
    SOURCE = "ip saddr"
    """The same, shown as a source's."""
    PROTOCOL = "meta l4proto"
    PORT = "th dport"
    SLOT = "numgen random mod 2"
    """An index, in the host's byte order."""
    CLASS = "meta priority"
    """32 bits in the host's byte order, which `nft` writes as `major:minor`."""
    MARK = "meta mark"
    """32 bits in the host's byte order."""
    OTHER = "?"
    """Read from the kernel: something that none of our sets has."""


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
    anonymous: bool = False
    """Read from the kernel: whether it is part of a rule, and goes with it."""
    otherwise: bool = False
    """Read from the kernel: whether it has what none of our sets has (no name, expressions, ...)."""


class Element(Record, frozen=True):
    """A member of a set, or a pair of a map."""

    key: bytes
    data: bytes | Decide | None = None
    comment: str = ""
    end: bytes | None = None
    """The last key of an interval: all fields of it, of which the last may be greater than the key's."""
    timeout: int = 0
    """Milliseconds that it lives (in a dynamic set), 0 without end."""
    expires: int = 0
    """Milliseconds that are left of them, 0 when it has no end; what is added without begins with all of them."""


class Change(Record, frozen=True):
    """One step of a transaction; its kinds follow."""


class Split(Change, frozen=True):
    """Not a step: should all of it not fit into one transaction, one may end here and the next begin."""


class AddTable(Change, frozen=True):
    """Make the table unless it is there; one that is there is woken, or put to sleep."""

    comment: str = ""
    dormant: bool = False
    """Whether no packet comes through it, whatever is in it; none of ours is."""


class DeleteTable(Change, frozen=True):
    """Delete the table with all that is in it; it must be there."""


class AddChain(Change, frozen=True):
    """Make a chain unless it is there."""

    chain: Chain


class FlushChain(Change, frozen=True):
    """Delete the rules of a chain."""

    name: str


class DeleteChain(Change, frozen=True):
    """Delete a chain, with its rules; something that leads to it is refused (EBUSY)."""

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
    """Put elements in.

    One that is there already with other data is refused (EEXIST), and one too many for the set's size (ENFILE).
    """

    set: str
    elements: Sequence[Element]


class DeleteElements(Change, frozen=True):
    """Take elements out, by their keys; one that is not there is refused (ENOENT)."""

    set: str
    elements: Sequence[Element]
