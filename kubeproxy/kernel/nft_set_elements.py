"""ipset's entries as elements of nf_tables' sets: each of our kinds of ipset has its counterpart. Pure."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import ip_network
from sys import byteorder
from typing import Any

from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.netlink_messages import PROTOCOL_OF, address_text, packed_address
from kubeproxy.kernel.nf_tables import fields
from kubeproxy.kernel.nf_tables.types import Element, Field, SetSpec
from kubeproxy.model.addresses import Family, outermost

WHOLE_MARK = 0xFFFFFFFF
"""A map gives a packet its whole mark: no mask."""

_PLACE = (Field.ADDRESS, Field.PROTOCOL, Field.PORT)
_KEYS = {
    SetType.ADDRESSES: (Field.ADDRESS,),
    SetType.PORTS: _PLACE,
    SetType.MARKS: _PLACE,
    SetType.ENDPOINTS: (*_PLACE, Field.SOURCE),
    SetType.RANGES: (*_PLACE, Field.SOURCE),
    SetType.PORT_NUMBERS: (Field.PORT,),
}


def spec_of(kind: SetType, name: str) -> SetSpec:
    """Return the set of a kind. Raises KeyError for a kind that is not built."""
    data = (Field.MARK,) if kind is SetType.MARKS else None
    return SetSpec(name=name, key=_KEYS[kind], data=data, interval=kind is SetType.RANGES)


def kind_of(spec: SetSpec) -> SetType | None:
    """Return the kind of a set, None when it is none of ours, whatever words `nft` has for its fields."""
    for kind in _KEYS:
        ours = spec_of(kind, spec.name)
        if _shape(ours) == _shape(spec):
            return kind
    return None


def _shape(spec: SetSpec) -> tuple[object, ...]:
    key = tuple(Field.ADDRESS if each is Field.SOURCE else each for each in spec.key)
    return key, spec.data, spec.interval, spec.dynamic, spec.otherwise


def element_of(kind: SetType, member: Member) -> Element:
    """Return the element that an entry becomes."""
    entry: Any = member  # the kind says how many fields there are
    if kind is SetType.ADDRESSES:
        return Element(packed_address(entry))
    if kind is SetType.PORT_NUMBERS:
        return Element(entry.to_bytes(2, "big"))
    place_key = fields.place(*entry[:3])
    if kind is SetType.MARKS:
        return Element(place_key, fields.number(entry[3]))
    if kind is SetType.ENDPOINTS:
        return Element(place_key + packed_address(entry[0]))
    if kind is SetType.RANGES:
        first, last = _ends(entry[3])
        return Element(place_key + first, None, "", place_key + last)
    return Element(place_key)


@lru_cache(maxsize=4096)
def _ends(network: str) -> tuple[bytes, bytes]:
    parsed = ip_network(network)
    return parsed.network_address.packed, parsed.broadcast_address.packed


def members_of(kind: SetType, family: Family, elements: Iterable[Element]) -> set[Member]:
    """Return the entries that elements are; without those that are somebody's, as ours never are such."""
    found = (_member(kind, family.host_bits // 8, each) for each in elements)
    return {each for each in found if each is not None}


def _member(kind: SetType, address_bytes: int, element: Element) -> Member | None:
    key = element.key
    if kind is SetType.PORT_NUMBERS:
        return int.from_bytes(key, "big")
    address, rest = key[:address_bytes], key[address_bytes:]
    if kind is SetType.ADDRESSES:
        return address_text(address)
    protocol = PROTOCOL_OF.get(rest[0])
    if protocol is None:
        return None
    entry = address_text(address), protocol, int.from_bytes(rest[4:6], "big")
    if kind is SetType.MARKS and isinstance(element.data, bytes):
        return (*entry, int.from_bytes(element.data, byteorder), WHOLE_MARK)
    if kind is SetType.ENDPOINTS:
        return entry if rest[8:] == address else None
    if kind is SetType.RANGES:
        network = _network(rest[8:], (element.end or key)[address_bytes + 8 :])
        return (*entry, network) if network else None
    return entry


@lru_cache(maxsize=4096)
def _network(first: bytes, last: bytes) -> str:
    """Return the network of a range, "" when it is more than one."""
    size = int.from_bytes(last, "big") - int.from_bytes(first, "big") + 1
    if size < 1 or size & (size - 1) or int.from_bytes(first, "big") % size:
        return ""
    return f"{address_text(first)}/{len(first) * 8 - size.bit_length() + 1}"


def place_of(member: Member) -> object:
    """Return what of a member tells where it is: of a mark and a range, all but these."""
    return member[:3] if isinstance(member, tuple) else member


def stored(kind: SetType, members: Collection[Member]) -> set[Member]:
    """Return which members are elements in the kernel: a range that lies within another one cannot be one."""
    if kind is not SetType.RANGES:
        return set(members)
    by_place: dict[object, list[Any]] = {}
    for each in members:
        by_place.setdefault(place_of(each), []).append(each)
    found: set[Member] = set()
    for group in by_place.values():
        kept = set(outermost([each[3] for each in group]))
        found.update(each for each in group if each[3] in kept)
    return found
