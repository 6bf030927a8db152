"""The numbers of the DNS protocol that we use, under their registered names (IANA "DNS Parameters")."""

from enum import IntEnum


class Type(IntEnum):
    """Record types that we serve or treat in a way of their own."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    DS = 43
    HTTPS = 65
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


IN = 1
"""Class Internet, the only one that we serve."""

METRIC_TYPES = frozenset(
    {"A", "AAAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NS", "NSEC", "NSEC3", "PTR", "RRSIG"}
    | {"SOA", "SRV", "TXT", "ANY", "SVCB"}
)
"""Types that get a metric label of their own (CoreDNS's vars.monitorType); the rest are `other`."""

TYPE_NAMES = {
    **{kind.value: kind.name for kind in Type},
    46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 64: "SVCB", 35: "NAPTR", 257: "CAA", 10: "NULL",
}  # fmt: skip


def type_name(number: int) -> str:
    """Return `A`, or `TYPE4711` for what we have no name for (RFC 3597)."""
    return TYPE_NAMES.get(number) or f"TYPE{number}"


def type_label(number: int) -> str:
    """Return the value of the ``type`` label of the request metrics."""
    name = TYPE_NAMES.get(number, "")
    return name if name in METRIC_TYPES else "other"


def rcode_name(number: int) -> str:
    """Return `NOERROR`, or `RCODE23` for what we have no name for."""
    return Rcode(number).name if number in Rcode.__members__.values() else f"RCODE{number}"
