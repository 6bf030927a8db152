"""Sets in a table of nftables: how `nft` is told of them, and what its JSON says of them. Pure.

Each of our kinds of ipset has its counterpart. Protocols are written as numbers, since a small machine has no
/etc/protocols.
"""

from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_network
from typing import Any

from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.netlink_messages import PROTOCOL_NUMBER, attributes, netfilter_head, text_attribute
from kubeproxy.model.addresses import Family, outermost
from kubeproxy.model.objects import Protocol

MSG_GET_SETELEM = 10 << 8 | 13
_SETELEM_TABLE, _SETELEM_SET, _SETELEM_ELEMENTS = 1, 2, 3

WHOLE_MARK = 0xFFFFFFFF
"""A map gives a packet its whole mark: no mask."""

ADDRESS_TYPE = {Family.V4: "ipv4_addr", Family.V6: "ipv6_addr"}
_PLACE = ("ADDRESS", "inet_proto", "inet_service")
_TYPES = {
    SetType.ADDRESSES: ("ADDRESS",),
    SetType.PORTS: _PLACE,
    SetType.MARKS: _PLACE,
    SetType.ENDPOINTS: (*_PLACE, "ADDRESS"),
    SetType.RANGES: (*_PLACE, "ADDRESS"),
    SetType.PORT_NUMBERS: ("inet_service",),
}
"""What a key is made of."""
_PROTOCOL = {str(number): each for each, number in PROTOCOL_NUMBER.items()} | {
    each.lower(): each for each in Protocol
}

Shape = tuple[tuple[str, ...], bool, bool]
"""The types that a key is made of; whether there are ranges among them; whether each has a mark."""


def shape(family: Family, kind: SetType) -> Shape:
    """Return what tells sets of a kind from those of others. Raises KeyError for a kind that is not built."""
    types = tuple(ADDRESS_TYPE[family] if each == "ADDRESS" else each for each in _TYPES[kind])
    return types, kind is SetType.RANGES, kind is SetType.MARKS


def word(kind: SetType) -> str:
    """Return what nftables calls an object of a kind."""
    return "map" if kind is SetType.MARKS else "set"


def declaration(family: Family, table: str, name: str, kind: SetType) -> str:
    """Return the commands that make a set, and its table, unless they are there."""
    types, ranges, marks = shape(family, kind)
    where = f"{spoken(family)} {table}"
    flags = "flags interval ; " if ranges else ""
    value = " : mark" if marks else ""
    return (
        f'add table {where} {{ comment "rules of kubeproxy in ipvs mode" ; }}\n'
        f"add {word(kind)} {where} {name} {{ type {' . '.join(types)}{value} ; {flags}}}\n"
    )


def spoken(family: Family) -> str:
    """Return how nftables names a family."""
    return "ip" if family is Family.V4 else "ip6"


def key_text(kind: SetType, member: Member) -> str:
    """Write an element's key."""
    if isinstance(member, str | int):
        return str(member)
    parts = [member[0], str(PROTOCOL_NUMBER[member[1]]), str(member[2])]
    if kind is SetType.ENDPOINTS:
        parts.append(member[0])
    elif kind is SetType.RANGES:
        parts.append(str(member[3]))  # type: ignore[misc]  # the kind says how many fields there are
    return " . ".join(parts)


def element_text(kind: SetType, member: Member) -> str:
    """Write an element as it is added."""
    text = key_text(kind, member)
    return f"{text} : {member[3]:#x}" if kind is SetType.MARKS and isinstance(member, tuple) else text  # type: ignore[misc]


def place(member: Member) -> object:
    """Return what of a member tells where it is: of a mark and a range, all but these."""
    return member[:3] if isinstance(member, tuple) else member


def stored(kind: SetType, members: Collection[Member]) -> set[Member]:
    """Return which members are elements in the kernel: a range that lies within another one cannot be one."""
    if kind is not SetType.RANGES:
        return set(members)
    by_place: dict[object, list[Any]] = {}
    for each in members:
        by_place.setdefault(place(each), []).append(each)
    found: set[Member] = set()
    for group in by_place.values():
        kept = set(outermost([each[3] for each in group]))
        found.update(each for each in group if each[3] in kept)
    return found


def read_sets(
    family: Family, listed: Mapping[str, Any]
) -> tuple[dict[str, SetType | None], dict[str, set[Member]]]:
    """Read `nft -j list table`: the kind of each set (None: it is none of ours), and what is in it."""
    kinds: dict[str, SetType | None] = {}
    members: dict[str, set[Member]] = {}
    shapes = {shape(family, kind): kind for kind in _TYPES}
    for each in listed["nftables"]:
        found = each.get("set") or each.get("map")
        if not found:
            continue
        types = found["type"]
        types = (types,) if isinstance(types, str) else tuple(types)
        kind = shapes.get((types, "interval" in found.get("flags", ()), found.get("map") == "mark"))
        if "map" in each and kind is not SetType.MARKS:
            kind = None
        kinds[found["name"]] = kind
        members[found["name"]] = set(_members(kind, found.get("elem", ()))) if kind else set()
    return kinds, members


def has_chains(listed: Mapping[str, Any]) -> bool:
    """Return whether there are chains in a table."""
    return any("chain" in each for each in listed["nftables"])


def _members(kind: SetType, elements: Collection[Any]) -> Iterator[Member]:
    for each in elements:
        key, mark = each if isinstance(each, list) else (each, 0)
        if isinstance(key, dict) and "elem" in key:  # somebody gave it a comment or a time
            key = key["elem"]["val"]
        if not isinstance(key, dict):
            yield key
            continue
        fields = key["concat"]
        protocol = _PROTOCOL.get(str(fields[1]))
        if protocol is None or (kind is SetType.ENDPOINTS and fields[0] != fields[3]):
            continue  # somebody's: ours never are such
        entry = str(fields[0]), protocol, int(fields[2])
        if kind is SetType.MARKS:
            yield (*entry, int(mark), WHOLE_MARK)
        elif kind is SetType.RANGES:
            yield (*entry, _network(fields[3]))
        else:
            yield entry


def _network(text: Any) -> str:
    if isinstance(text, dict):
        return f"{text['prefix']['addr']}/{text['prefix']['len']}"
    return str(ip_network(text))


def encode_elements(family: Family, table: str, name: str) -> bytes:
    """Encode the body of a dump of a set's elements."""
    names = text_attribute(_SETELEM_TABLE, table) + text_attribute(_SETELEM_SET, name)
    return netfilter_head(family) + names


def count_elements(answer: bytes) -> int:
    """Count the elements in an answer to that."""
    listed = dict(attributes(answer[4:])).get(_SETELEM_ELEMENTS, b"")
    return sum(1 for _ in attributes(listed))
