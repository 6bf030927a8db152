"""Rules in nft's words, and as the expressions that nft makes of them, register by register."""

from collections.abc import Callable

from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables.fields import packed_address
from kubeproxy.kernel.nf_tables.types import VERDICTS, Field, SetSpec
from kubeproxy.model.addresses import Family

PLACE = (Field.ADDRESS, Field.PROTOCOL, Field.PORT)
SETS = (
    SetSpec(name="cluster-ips", key=(Field.ADDRESS,), comment="of all Services"),
    SetSpec(name="service-ips", key=PLACE, data=(Field.CLASS,)),
    SetSpec(name="service-nodeports", key=(Field.PROTOCOL, Field.PORT), data=(Field.CLASS,)),
    SetSpec(name="picks", key=(Field.CLASS,), data=VERDICTS),
    SetSpec(name="endpoints", key=(*PLACE, Field.SLOT), data=(Field.ADDRESS, Field.PORT)),
    SetSpec(name="sticky-slots", key=(*PLACE, Field.SLOT), data=(Field.CLASS,)),
    SetSpec(name="sticky-endpoints", key=(*PLACE, Field.CLASS), data=(Field.ADDRESS, Field.PORT)),
    SetSpec(name="hairpin-connections", key=(Field.SOURCE, *PLACE)),
    SetSpec(name="firewall-sources", key=(*PLACE, Field.SOURCE), interval=True),
    SetSpec(name="affinity", key=(Field.SOURCE, *PLACE), data=(Field.CLASS,), dynamic=True, size=1048576),
)
PLACE_TEXT = "{ip} daddr . meta l4proto . th dport"


def words(family: Family) -> int:
    """Return how many registers an address takes."""
    return family.host_bits // 32


def destination(family: Family, to: int = 0) -> ex.Payload:
    v4 = family is Family.V4
    return ex.Payload(ex.Header.NETWORK, 16 if v4 else 24, 4 if v4 else 16, to)


def source(family: Family, to: int = 0) -> ex.Payload:
    v4 = family is Family.V4
    return ex.Payload(ex.Header.NETWORK, 12 if v4 else 8, 4 if v4 else 16, to)


def protocol_and_port(to: int) -> tuple[ex.Expression, ...]:
    return ex.LoadMeta(ex.Meta.L4PROTO, to), ex.Payload(ex.Header.TRANSPORT, 2, 2, to + 1)


def place(family: Family, to: int = 0) -> tuple[ex.Expression, ...]:
    return destination(family, to), *protocol_and_port(to + words(family))


def client_and_place(family: Family) -> tuple[ex.Expression, ...]:
    return source(family), *place(family, words(family))


def set_priority(*how: ex.Expression) -> tuple[ex.Expression, ...]:
    return *how, ex.StoreMeta(ex.Meta.PRIORITY, 0)


def goto(chain: str) -> ex.Decide:
    return ex.Decide(ex.VerdictWord.GOTO, chain)


def jump(chain: str) -> ex.Decide:
    return ex.Decide(ex.VerdictWord.JUMP, chain)


ACCEPT, DROP, RETURN = (
    ex.Decide(word) for word in (ex.VerdictWord.ACCEPT, ex.VerdictWord.DROP, ex.VerdictWord.RETURN)
)
EQUAL, UNEQUAL = ex.Operator.EQUAL, ex.Operator.UNEQUAL
ZERO, MARK, ALL = bytes(4), (0x4000).to_bytes(4, "little"), b"\xff" * 4
_NOT_MARK = bytes(each ^ 0xFF for each in MARK)


def dnat(family: Family) -> ex.DestinationNat:
    return ex.DestinationNat(0, words(family), family is Family.V6)


def learnt(family: Family, operation: ex.DynamicOperation, seconds: int = 0) -> tuple[ex.Expression, ...]:
    # nft puts the data into the next of the registers of 16 bytes.
    behind = 4 if family is Family.V4 else 12
    return (
        *client_and_place(family),
        ex.LoadMeta(ex.Meta.PRIORITY, behind),
        ex.Dynamic(operation, "affinity", 0, behind, seconds),
    )


def interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


Make = Callable[[Family], tuple[ex.Expression, ...]]
RULES: dict[str, Make] = {
    "meta priority set none": lambda f: set_priority(ex.Immediate(ZERO, 0)),
    "meta priority set " + PLACE_TEXT + " map @service-ips": lambda f: set_priority(
        *place(f), ex.Lookup("service-ips", 0, to=0)
    ),
    "meta priority set meta l4proto . th dport map @service-nodeports": lambda f: set_priority(
        *protocol_and_port(0), ex.Lookup("service-nodeports", 0, to=0)
    ),
    "meta priority vmap @picks": lambda f: (
        ex.LoadMeta(ex.Meta.PRIORITY, 0),
        ex.Lookup("picks", 0, verdicts=True),
    ),
    "fib daddr type local goto services": lambda f: (
        ex.LoadAddressType(False, 0),
        ex.Compare(0, EQUAL, (2).to_bytes(4, "little")),
        goto("services"),
    ),
    "fib saddr type != local jump services": lambda f: (
        ex.LoadAddressType(True, 0),
        ex.Compare(0, UNEQUAL, (2).to_bytes(4, "little")),
        jump("services"),
    ),
    "dnat {ip} to " + PLACE_TEXT + " . numgen random mod 3 map @endpoints": lambda f: (
        *place(f),
        ex.Random(3, words(f) + 2),
        ex.Lookup("endpoints", 0, to=0),
        dnat(f),
    ),
    "dnat {ip} to " + PLACE_TEXT + " . meta priority map @sticky-endpoints": lambda f: (
        *place(f),
        ex.LoadMeta(ex.Meta.PRIORITY, words(f) + 2),
        ex.Lookup("sticky-endpoints", 0, to=0),
        dnat(f),
    ),
    "meta priority set " + PLACE_TEXT + " . numgen random mod 2 map @sticky-slots": lambda f: set_priority(
        *place(f), ex.Random(2, words(f) + 2), ex.Lookup("sticky-slots", 0, to=0)
    ),
    "meta priority set {ip} saddr . " + PLACE_TEXT + " map @affinity": lambda f: set_priority(
        *client_and_place(f), ex.Lookup("affinity", 0, to=0)
    ),
    "{ip} daddr {address} return": lambda f: (
        destination(f),
        ex.Compare(0, EQUAL, packed_address(ADDRESS[f])),
        RETURN,
    ),
    "{ip} saddr != {network} jump services": lambda f: (*_outside(f), jump("services")),
    "{ip} daddr @cluster-ips meta mark set meta mark | 0x00004000": lambda f: (
        destination(f),
        ex.Lookup("cluster-ips", 0),
        ex.LoadMeta(ex.Meta.MARK, 0),
        ex.Bitwise(0, _NOT_MARK, MARK),
        ex.StoreMeta(ex.Meta.MARK, 0),
    ),
    "{ip} daddr != @cluster-ips return": lambda f: (
        destination(f),
        ex.Lookup("cluster-ips", 0, inverted=True),
        RETURN,
    ),
    "meta mark & 0x00004000 == 0x00000000 return": lambda f: (
        ex.LoadMeta(ex.Meta.MARK, 0),
        ex.Bitwise(0, MARK, ZERO),
        ex.Compare(0, EQUAL, ZERO),
        RETURN,
    ),
    "meta mark set meta mark ^ 0x00004000": lambda f: (
        ex.LoadMeta(ex.Meta.MARK, 0),
        ex.Bitwise(0, ALL, MARK),
        ex.StoreMeta(ex.Meta.MARK, 0),
    ),
    "masquerade fully-random": lambda f: (ex.Masquerade(),),
    "{ip} saddr . " + PLACE_TEXT + " @hairpin-connections masquerade fully-random": lambda f: (
        *client_and_place(f),
        ex.Lookup("hairpin-connections", 0),
        ex.Masquerade(),
    ),
    PLACE_TEXT + " . {ip} saddr != @firewall-sources drop": lambda f: (
        *place(f),
        source(f, words(f) + 2),
        ex.Lookup("firewall-sources", 0, inverted=True),
        DROP,
    ),
    'iifname "cni0" goto services': lambda f: (
        ex.LoadMeta(ex.Meta.IIFNAME, 0),
        ex.Compare(0, EQUAL, interface("cni0")),
        goto("services"),
    ),
    'iifname "veth*" goto services': lambda f: (
        ex.LoadMeta(ex.Meta.IIFNAME, 0),
        ex.Compare(0, EQUAL, b"veth"),
        goto("services"),
    ),
    "reject": lambda f: (ex.Reject(),),
    "ct state invalid drop": lambda f: (*_of_ct(ex.Ct.STATE, 1), DROP),
    "ct state established,related accept": lambda f: (*_of_ct(ex.Ct.STATE, 6), ACCEPT),
    "ct status dnat accept": lambda f: (*_of_ct(ex.Ct.STATUS, 0x20), ACCEPT),
    "counter packets 0 bytes 0 accept": lambda f: (ex.Counter(), ACCEPT),
    "meta priority != none update @affinity {{ {ip} saddr . "
    + PLACE_TEXT
    + " timeout 3h : meta priority }}": lambda f: (
        ex.LoadMeta(ex.Meta.PRIORITY, 0),
        ex.Compare(0, UNEQUAL, ZERO),
        *learnt(f, ex.DynamicOperation.UPDATE, 10800),
    ),
    "delete @affinity {{ {ip} saddr . " + PLACE_TEXT + " : meta priority }}": lambda f: learnt(
        f, ex.DynamicOperation.DELETE
    ),
}
"""`{ip}` is the family's name, `{address}` and `{network}` some of its addresses."""
ADDRESS = {Family.V4: "10.96.0.1", Family.V6: "fd00:96::1"}
NETWORK = {Family.V4: "10.128.0.0/9", Family.V6: "fd00:80::/25"}
CRASHES_NFT = "@affinity {"
"""nft 1.0.6 ends with SIGABRT when it reads a rule that changes a map whose key has an IPv6 address in it."""


def _outside(family: Family) -> tuple[ex.Expression, ...]:
    mask = b"\xff\x80" if family is Family.V4 else b"\xff\xff\xff\x80"
    address, _, _ = NETWORK[family].partition("/")
    packed = packed_address(address)
    return (
        source(family),
        ex.Bitwise(0, mask.ljust(len(packed), b"\0"), bytes(len(packed))),
        ex.Compare(0, UNEQUAL, packed),
    )


def _of_ct(key: ex.Ct, bits: int) -> tuple[ex.Expression, ...]:
    return (
        ex.LoadCt(key, 0),
        ex.Bitwise(0, bits.to_bytes(4, "little"), ZERO),
        ex.Compare(0, UNEQUAL, ZERO),
    )


def spoken(text: str, family: Family) -> str:
    """Return a rule in nft's words for a family."""
    ip = "ip" if family is Family.V4 else "ip6"
    return text.format(ip=ip, address=ADDRESS[family], network=NETWORK[family])
