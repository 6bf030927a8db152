"""What our rules say over and over, in nf_tables' expressions. Pure.

A phrase is a tuple of expressions, those that `nft` itself would make of its words, which stand beside it: a table
that was saved and restored by `nft` is the same. Registers: a key begins at 0, and what is found for it goes there
too; an IPv6 address takes four of them, everything else one.
"""

from ipaddress import ip_network
from sys import byteorder

import msgspec

from kubeproxy.dataplane.nftables.names import CODE_BASE, CODE_MASK, HAIRPIN, ListMaps, Way
from kubeproxy.kernel.nf_tables.expressions import (
    Bitwise,
    Compare,
    Counter,
    Ct,
    Decide,
    DestinationNat,
    Dynamic,
    DynamicOperation,
    Expression,
    Header,
    Immediate,
    LoadAddressType,
    LoadCt,
    LoadMeta,
    Lookup,
    Masquerade,
    Meta,
    Operator,
    Payload,
    Random,
    Reject,
    StoreMeta,
    VerdictWord,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, LocalTraffic

Phrase = tuple[Expression, ...]

_NEW, _INVALID = 8, 1  # bits of ct state
_DNAT = 32  # of ct status
_LOCAL = 2  # RTN_LOCAL, of fib type


def _number(value: int) -> bytes:
    return value.to_bytes(4, byteorder)


_NOTHING = _number(0)


def go(chain: str) -> Expression:
    """Go on in another chain and do not come back: `goto CHAIN`."""
    return Decide(VerdictWord.GOTO, chain)


def jump(chain: str) -> Expression:
    """Go on in another chain, and then behind this rule: `jump CHAIN`."""
    return Decide(VerdictWord.JUMP, chain)


ACCEPT = Decide(VerdictWord.ACCEPT)
RETURN = Decide(VerdictWord.RETURN)
DROP: Phrase = (Counter(), Decide(VerdictWord.DROP))
REJECT: Phrase = (Counter(), Reject())
MASQUERADE = Masquerade()

NEW: Phrase = (
    LoadCt(Ct.STATE, 0),
    Bitwise(0, _number(_NEW), _NOTHING),
    Compare(0, Operator.UNEQUAL, _NOTHING),
)
"""`ct state new`."""
INVALID: Phrase = (
    LoadCt(Ct.STATE, 0),
    Bitwise(0, _number(_INVALID), _NOTHING),
    Compare(0, Operator.UNEQUAL, _NOTHING),
)
"""`ct state invalid`."""
FROM_HERE: Phrase = (LoadAddressType(True, 0), Compare(0, Operator.EQUAL, _number(_LOCAL)))
"""`fib saddr type local`: this node's own processes."""
TO_HERE: Phrase = (LoadAddressType(False, 0), Compare(0, Operator.EQUAL, _number(_LOCAL)))
"""`fib daddr type local`."""

FORGET_CODE: Phrase = (Immediate(_NOTHING, 0), StoreMeta(Meta.PRIORITY, 0))
"""`meta priority set none`."""
HAS_OUR_CODE: Phrase = (
    LoadMeta(Meta.PRIORITY, 0),
    Bitwise(0, _number(CODE_MASK), _NOTHING),
    Compare(0, Operator.EQUAL, _number(CODE_BASE)),
)
"""`meta priority & ff00:0 == 6b00:0`."""
HAS_CODE: Phrase = (LoadMeta(Meta.PRIORITY, 0), Compare(0, Operator.UNEQUAL, _NOTHING))
"""`meta priority != none`."""


def mark(bit: int) -> Phrase:
    """`meta mark set meta mark | BIT`: asks for masquerading."""
    keep = _number(~bit & 0xFFFFFFFF)
    return LoadMeta(Meta.MARK, 0), Bitwise(0, keep, _number(bit)), StoreMeta(Meta.MARK, 0)


def has_mark(bit: int) -> Phrase:
    """`meta mark & BIT != 0`."""
    return (
        LoadMeta(Meta.MARK, 0),
        Bitwise(0, _number(bit), _NOTHING),
        Compare(0, Operator.UNEQUAL, _NOTHING),
    )


def toggle_mark(bit: int) -> Phrase:
    """`meta mark set meta mark ^ BIT`."""
    return LoadMeta(Meta.MARK, 0), Bitwise(0, _number(0xFFFFFFFF), _number(bit)), StoreMeta(Meta.MARK, 0)


def by_class(picks: str) -> Phrase:
    """`meta priority vmap @PICKS`: goes where the class that was found leads."""
    return LoadMeta(Meta.PRIORITY, 0), Lookup(picks, 0, verdicts=True)


class Phrases:
    """Those that differ between IP families."""

    def __init__(self, family: Family) -> None:
        """See the class."""
        self._family = family
        self._is_ipv6 = family is Family.V6
        self._bytes = family.host_bits // 8
        self._width = self._bytes // 4
        """Registers of an address."""
        self._source_at, self._destination_at = (8, 24) if self._is_ipv6 else (12, 16)

    def _source(self, to: int) -> Payload:
        return Payload(Header.NETWORK, self._source_at, self._bytes, to)

    def _destination(self, to: int) -> Payload:
        return Payload(Header.NETWORK, self._destination_at, self._bytes, to)

    def _place(self, way: Way, to: int = 0) -> tuple[Phrase, int]:
        """Load a place; return where its key ends, too."""
        address: Phrase = (self._destination(to),) if way is Way.ADDRESS else ()
        end = to + (self._width if address else 0)
        return (*address, LoadMeta(Meta.L4PROTO, end), Payload(Header.TRANSPORT, 2, 2, end + 1)), end + 2

    def at(self, way: Way, which: str) -> Phrase:
        """`PLACE @SET`."""
        place, _ = self._place(way)
        return (*place, Lookup(which, 0))

    def find_class(self, way: Way, which: str) -> Phrase:
        """`meta priority set PLACE map @MAP`."""
        place, _ = self._place(way)
        return (*place, Lookup(which, 0, 0), StoreMeta(Meta.PRIORITY, 0))

    def is_cluster_ip(self, which: str) -> Phrase:
        """`ip daddr @SET`."""
        return self._destination(0), Lookup(which, 0)

    def is_from(self, which: str, length: int) -> Phrase:
        """`PLACE . ip saddr & MASK @SET`."""
        place, end = self._place(Way.ADDRESS)
        bits = self._family.host_bits
        mask = ((1 << length) - 1 << bits - length).to_bytes(self._bytes, "big")
        masked = (Bitwise(end, mask, bytes(self._bytes)),) if length < bits else ()
        return (*place, self._source(end), *masked, Lookup(which, 0))

    def hairpin(self) -> Phrase:
        """`ct status dnat ip saddr . PLACE @hairpin-connections`."""
        place, _ = self._place(Way.ADDRESS, self._width)
        dnat = (
            LoadCt(Ct.STATUS, 0),
            Bitwise(0, _number(_DNAT), _NOTHING),
            Compare(0, Operator.UNEQUAL, _NOTHING),
        )
        return (*dnat, self._source(0), *place, Lookup(HAIRPIN, 0))

    def to_network(self, cidr: str, *, outside: bool = False) -> Phrase:
        """`ip daddr CIDR`, or `!=`."""
        return self._within(self._destination(0), cidr, outside)

    def pods(self, local: LocalTraffic, *, strangers: bool = False) -> Phrase | None:
        """Match packets of this cluster's pods, or of all others; None when nobody can tell."""
        operator = Operator.UNEQUAL if strangers else Operator.EQUAL
        match local.kind:
            case LocalKind.NONE:
                return None
            case LocalKind.SOURCE:
                return self._within(self._source(0), local.value, strangers)
            case LocalKind.INTERFACE:
                name = local.value.encode().ljust(16, b"\0")
            case LocalKind.PREFIX:
                name = local.value.encode()
        return LoadMeta(Meta.IIFNAME, 0), Compare(0, operator, name)

    def _within(self, address: Payload, cidr: str, outside: bool) -> Phrase:
        network = ip_network(cidr)
        operator = Operator.UNEQUAL if outside else Operator.EQUAL
        wanted = network.network_address.packed
        length, odd = divmod(network.prefixlen, 8)
        if length and not odd:
            return msgspec.structs.replace(address, length=length), Compare(0, operator, wanted[:length])
        return address, Bitwise(0, network.netmask.packed, bytes(self._bytes)), Compare(0, operator, wanted)

    def pick(self, way: Way, maps: ListMaps, count: int) -> Phrase:
        """`dnat to PLACE . numgen random mod N map @endpoints`."""
        place, end = self._place(way)
        return (*place, Random(count, end), Lookup(maps.endpoints, 0, 0), self._dnat())

    def _dnat(self) -> DestinationNat:
        return DestinationNat(0, self._width, self._is_ipv6)

    def remembered(self, way: Way, maps: ListMaps, seconds: int) -> tuple[Phrase, ...]:
        """Return the rules that give a client the endpoint that it had; who comes through them needs one."""
        client, _ = self._client(way)
        return (
            FORGET_CODE,
            (*client, Lookup(way.value.affinity, 0, 0), StoreMeta(Meta.PRIORITY, 0)),
            # Ends without a translation when that endpoint is gone.
            (*HAS_CODE, *self._remember(way, DynamicOperation.UPDATE, seconds), *self._to_numbered(way, maps)),
            # An update would keep the old number.
            self._remember(way, DynamicOperation.DELETE, 0),
        )

    def choose(self, way: Way, maps: ListMaps, count: int) -> Phrase:
        """`meta priority set PLACE . numgen random mod N map @sticky-slots`."""
        place, end = self._place(way)
        return (*place, Random(count, end), Lookup(maps.slots, 0, 0), StoreMeta(Meta.PRIORITY, 0))

    def remembering(self, way: Way, maps: ListMaps, seconds: int) -> tuple[Phrase, ...]:
        """Return the rules that give a client the endpoint that was chosen, and note which it is."""
        return (
            # When there is no room the client is served all the same.
            self._remember(way, DynamicOperation.UPDATE, seconds),
            self._to_numbered(way, maps),
        )

    def _client(self, way: Way) -> tuple[Phrase, int]:
        """Load a client and a place; return where the key ends, too."""
        place, end = self._place(way, self._width)
        return (self._source(0), *place), end

    def _remember(self, way: Way, operation: DynamicOperation, seconds: int) -> Phrase:
        """`update @affinity { ip saddr . PLACE timeout SECONDS : meta priority }`, or `delete`."""
        client, end = self._client(way)
        data = (end + 3) & ~3
        return (
            *client,
            LoadMeta(Meta.PRIORITY, data),
            Dynamic(operation, way.value.affinity, 0, data, seconds),
        )

    def _to_numbered(self, way: Way, maps: ListMaps) -> Phrase:
        """`dnat to PLACE . meta priority map @sticky-endpoints`."""
        place, end = self._place(way)
        return (
            *place,
            LoadMeta(Meta.PRIORITY, end),
            Lookup(maps.sticky, 0, 0),
            self._dnat(),
        )
