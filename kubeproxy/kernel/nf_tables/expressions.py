"""The expressions that rules are made of, as values. Pure. See nft(8) and net/netfilter/nft_*.c.

A rule is a row of small instructions on sixteen registers of four bytes: loads put something of the packet into
one, comparisons and look-ups end the rule unless they hold, statements act.
"""

from enum import IntEnum, StrEnum

from kubeproxy.model.objects import Record


class Header(IntEnum):
    """Where a payload's offset counts from."""

    NETWORK = 1
    TRANSPORT = 2


class Meta(IntEnum):
    """What is known about a packet beside its bytes (NFT_META_*)."""

    PRIORITY = 2
    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    NFTRACE = 12
    """One byte, 1 or 0."""
    L4PROTO = 16
    """One byte."""


class Ct(IntEnum):
    """What connection tracking knows (NFT_CT_*)."""

    STATE = 0
    STATUS = 2


class Operator(IntEnum):
    """How a register is compared (NFT_CMP_*)."""

    EQUAL = 0
    UNEQUAL = 1


class Payload(Record, frozen=True):
    """Load bytes of the packet."""

    header: Header
    offset: int
    length: int
    to: int
    """Register, 0 to 15, as everywhere."""


class LoadMeta(Record, frozen=True):
    """Load a fact about the packet."""

    key: Meta
    to: int


class StoreMeta(Record, frozen=True):
    """Write a fact about the packet."""

    key: Meta
    source: int


class LoadCt(Record, frozen=True):
    """Load a fact about the packet's connection."""

    key: Ct
    to: int


class LoadAddressType(Record, frozen=True):
    """Load what the routing table says of the source address (or the destination's): local or not (`fib`)."""

    of_source: bool
    to: int


class Random(Record, frozen=True):
    """Load a random number below ``modulus`` (`numgen random`)."""

    modulus: int
    to: int


class Immediate(Record, frozen=True):
    """Load a constant."""

    value: bytes
    to: int


class Bitwise(Record, frozen=True):
    """Replace a register by (it & mask) ^ xor; both as long as what it holds."""

    register: int
    mask: bytes
    xor: bytes


class Compare(Record, frozen=True):
    """End the rule unless it holds."""

    register: int
    operator: Operator
    value: bytes


class Lookup(Record, frozen=True):
    """Look a key up; end the rule when it is not in the set (``inverted``: when it is)."""

    set: str
    source: int
    """The register where the key begins."""
    to: int | None = None
    """Where the data of a map goes; None for a set, and for a map of verdicts (`verdicts`)."""
    verdicts: bool = False
    inverted: bool = False


class DynamicOperation(IntEnum):
    """What a packet does to a set (NFT_DYNSET_OP_*)."""

    ADD = 0
    UPDATE = 1
    """Add, or begin its time anew."""
    DELETE = 2


class Dynamic(Record, frozen=True):
    """Have the packet change a dynamic set."""

    operation: DynamicOperation
    set: str
    key: int
    data: int | None = None
    timeout: int = 0
    """Seconds."""


class DestinationNat(Record, frozen=True):
    """Translate the destination to the address and port in registers."""

    address: int
    port: int | None
    is_ipv6: bool = False


class Masquerade(Record, frozen=True):
    """Translate the source to the node's own address, with a port chosen at random."""


class Reject(Record, frozen=True):
    """Tell the sender that the port is unreachable."""


class Counter(Record, frozen=True):
    """Count packets and bytes."""


class VerdictWord(StrEnum):
    """What a rule may decide."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"


class Decide(Record, frozen=True):
    """End here, or go on in another chain."""

    word: VerdictWord
    chain: str = ""


class Other(Record, frozen=True):
    """Read from the kernel: an expression that we never write, or one with settings that we never give it."""

    name: str
    data: bytes
    """Its attributes as they came."""


Expression = (
    Payload
    | LoadMeta
    | StoreMeta
    | LoadCt
    | LoadAddressType
    | Random
    | Immediate
    | Bitwise
    | Compare
    | Lookup
    | Dynamic
    | DestinationNat
    | Masquerade
    | Reject
    | Counter
    | Decide
    | Other
)
