"""How `nft` is told of sets and of an IP family. Pure."""

from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.model.addresses import Family

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


def declaration(family: Family, table: str, name: str, kind: SetType) -> str:
    """Return the commands that make a set, and its table, unless they are there."""
    types = " . ".join(ADDRESS_TYPE[family] if each == "ADDRESS" else each for each in _TYPES[kind])
    where = f"{spoken(family)} {table}"
    flags = "flags interval ; " if kind is SetType.RANGES else ""
    word, value = ("map", " : mark") if kind is SetType.MARKS else ("set", "")
    return f"add table {where}\nadd {word} {where} {name} {{ type {types}{value} ; {flags}}}\n"


def spoken(family: Family) -> str:
    """Return how nftables names a family."""
    return "ip" if family is Family.V4 else "ip6"
