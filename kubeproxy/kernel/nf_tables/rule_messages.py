"""The expressions of rules, to the kernel's attributes and back. Pure.

Layouts are those of linux/netfilter/nf_tables.h (NFTA_*), and of what nft writes for the same.
"""

import struct
from collections.abc import Callable, Sequence

from kubeproxy.kernel.netlink_messages import AF, attribute, attribute_map, attributes, decode_text, text_attribute
from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables.attributes import Attributes, nested, register, u32, u64, value, verdict
from kubeproxy.kernel.nf_tables.numbers import EXPRESSION_DATA, EXPRESSION_NAME, LIST_ELEMENT
from kubeproxy.model.addresses import Family

_VERDICT_REGISTER = 0
_ADDRESS_TYPE, _OF_SOURCE, _OF_DESTINATION = 3, 1, 2
"""What `fib` looks up, and of which address."""
_RANDOM, _INVERTED, _DNAT, _BOOLEAN = 1, 1, 1, 0
_ADDRESS_GIVEN, _PORT_GIVEN, _FULLY_RANDOM = 0x1, 0x2, 0x10
"""NF_NAT_RANGE_*."""
_UNREACHABLE, _PORT_UNREACHABLE = 0, {Family.V4: 3, Family.V6: 4}


def encode_expressions(expressions: Sequence[ex.Expression], family: Family) -> bytes:
    """Encode the list of a rule's expressions."""
    return b"".join(nested(LIST_ELEMENT, _encoded(each, family)) for each in expressions)


def _encoded(expression: ex.Expression, family: Family) -> bytes:
    if isinstance(expression, ex.Other):
        name, data = expression.name, expression.data
    else:
        name, encode = _ENCODERS[type(expression)]
        data = encode(expression, family)
    return text_attribute(EXPRESSION_NAME, name) + nested(EXPRESSION_DATA, data)


def decode_expressions(listed: bytes, family: Family) -> tuple[ex.Expression, ...]:
    """Decode a list of expressions; `Other` for each that we never write like that."""
    found: list[ex.Expression] = []
    for _, body in attributes(listed):
        parts = attribute_map(body)
        name, data = decode_text(parts.get(EXPRESSION_NAME, b"")), parts.get(EXPRESSION_DATA, b"")
        if name == "byteorder" and _turns_nothing(data):
            continue
        try:
            found.append(_DECODERS[name](Attributes(data), family))
        except (KeyError, ValueError, struct.error):
            found.append(ex.Other(name, data))
    return tuple(found)


def _turns_nothing(data: bytes) -> bool:
    """Whether a `byteorder` has no effect: nft writes one for a single byte in a concatenation with ranges."""
    found = attribute_map(data)
    length, size = found.get(4, b"\xff"), found.get(5, b"")
    return int.from_bytes(length, "big") < int.from_bytes(size, "big")


def _expect(holds: bool) -> None:
    """Have an expression be `Other` unless this holds."""
    if not holds:
        raise ValueError


def _payload(each: ex.Payload, _: Family) -> bytes:
    return register(1, each.to) + u32(2, each.header) + u32(3, each.offset) + u32(4, each.length)


def _read_payload(found: Attributes, _: Family) -> ex.Payload:
    return ex.Payload(ex.Header(found.number(2)), found.number(3), found.number(4), found.register(1))


def _load_meta(each: ex.LoadMeta, _: Family) -> bytes:
    return register(1, each.to) + u32(2, each.key)


def _store_meta(each: ex.StoreMeta, _: Family) -> bytes:
    return u32(2, each.key) + register(3, each.source)


def _read_meta(found: Attributes, _: Family) -> ex.Expression:
    key = ex.Meta(found.number(2))
    return ex.StoreMeta(key, found.register(3)) if 3 in found else ex.LoadMeta(key, found.register(1))


def _load_ct(each: ex.LoadCt, _: Family) -> bytes:
    return register(1, each.to) + u32(2, each.key)


def _read_ct(found: Attributes, _: Family) -> ex.LoadCt:
    _expect(3 not in found)
    return ex.LoadCt(ex.Ct(found.number(2)), found.register(1))


def _fib(each: ex.LoadAddressType, _: Family) -> bytes:
    return register(1, each.to) + u32(2, _ADDRESS_TYPE) + u32(3, _OF_SOURCE if each.of_source else _OF_DESTINATION)


def _read_fib(found: Attributes, _: Family) -> ex.LoadAddressType:
    flags = found.number(3)
    _expect(found.number(2) == _ADDRESS_TYPE and flags in (_OF_SOURCE, _OF_DESTINATION))
    return ex.LoadAddressType(flags == _OF_SOURCE, found.register(1))


def _numgen(each: ex.Random, _: Family) -> bytes:
    return register(1, each.to) + u32(2, each.modulus) + u32(3, _RANDOM) + u32(4, 0)


def _read_numgen(found: Attributes, _: Family) -> ex.Random:
    _expect(found.number(3) == _RANDOM and found.number(4, 0) == 0)
    return ex.Random(found.number(2), found.register(1))


def _immediate(each: ex.Immediate, _: Family) -> bytes:
    return register(1, each.to) + value(2, each.value)


def _decide(each: ex.Decide, _: Family) -> bytes:
    return u32(1, _VERDICT_REGISTER) + verdict(2, each)


def _read_immediate(found: Attributes, _: Family) -> ex.Expression:
    if found.number(1) == _VERDICT_REGISTER:
        return found.verdict(2)
    return ex.Immediate(found.value(2), found.register(1))


def _bitwise(each: ex.Bitwise, _: Family) -> bytes:
    both = register(1, each.register) + register(2, each.register)
    return both + u32(3, len(each.mask)) + value(4, each.mask) + value(5, each.xor)


def _read_bitwise(found: Attributes, _: Family) -> ex.Bitwise:
    both, mask, xor = found.register(1), found.value(4), found.value(5)
    _expect(found.number(6, _BOOLEAN) == _BOOLEAN and found.register(2) == both)
    _expect(found.number(3) == len(mask) == len(xor))
    return ex.Bitwise(both, mask, xor)


def _compare(each: ex.Compare, _: Family) -> bytes:
    return register(1, each.register) + u32(2, each.operator) + value(3, each.value)


def _read_compare(found: Attributes, _: Family) -> ex.Compare:
    return ex.Compare(found.register(1), ex.Operator(found.number(2)), found.value(3))


def _lookup(each: ex.Lookup, _: Family) -> bytes:
    found = text_attribute(1, each.set) + register(2, each.source)
    if each.verdicts:
        found += u32(3, _VERDICT_REGISTER)
    elif each.to is not None:
        found += register(3, each.to)
    return found + (u32(5, _INVERTED) if each.inverted else b"")


def _read_lookup(found: Attributes, _: Family) -> ex.Lookup:
    flags = found.number(5, 0)
    _expect(flags in (0, _INVERTED))
    verdicts = 3 in found and found.number(3) == _VERDICT_REGISTER
    to = found.register(3) if 3 in found and not verdicts else None
    return ex.Lookup(found.text(1), found.register(2), to, verdicts, flags == _INVERTED)


def _dynamic(each: ex.Dynamic, _: Family) -> bytes:
    found = text_attribute(1, each.set) + u32(3, each.operation) + register(4, each.key)
    if each.data is not None:
        found += register(5, each.data)
    return found + (u64(6, each.timeout * 1000) if each.timeout else b"")


def _read_dynamic(found: Attributes, _: Family) -> ex.Dynamic:
    seconds, rest = divmod(found.number(6, 0), 1000)
    _expect(not rest and not found.number(9, 0) and 7 not in found and 10 not in found)
    data = found.register(5) if 5 in found else None
    operation = ex.DynamicOperation(found.number(3))
    return ex.Dynamic(operation, found.text(1), found.register(4), data, seconds)


def _nat(each: ex.DestinationNat, _: Family) -> bytes:
    found = u32(1, _DNAT) + u32(2, AF[Family.V6 if each.is_ipv6 else Family.V4]) + register(3, each.address)
    if each.port is None:
        return found + u32(7, _ADDRESS_GIVEN)
    return found + register(5, each.port) + u32(7, _ADDRESS_GIVEN | _PORT_GIVEN)


def _read_nat(found: Attributes, _: Family) -> ex.DestinationNat:
    is_ipv6 = found.number(2) == AF[Family.V6]
    address, port = found.register(3), found.register(5) if 5 in found else None
    _expect(found.number(1) == _DNAT and (is_ipv6 or found.number(2) == AF[Family.V4]))
    _expect(found.number(7, 0) & ~(_ADDRESS_GIVEN | _PORT_GIVEN) == 0)
    _expect(4 not in found or found.register(4) == address)
    _expect(6 not in found or found.register(6) == port)
    return ex.DestinationNat(address, port, is_ipv6)


def _masquerade(_: ex.Masquerade, __: Family) -> bytes:
    return u32(1, _FULLY_RANDOM)


def _read_masquerade(found: Attributes, _: Family) -> ex.Masquerade:
    _expect(found.number(1) == _FULLY_RANDOM and 2 not in found)
    return ex.Masquerade()


def _reject(_: ex.Reject, family: Family) -> bytes:
    return u32(1, _UNREACHABLE) + attribute(2, bytes((_PORT_UNREACHABLE[family],)))


def _read_reject(found: Attributes, family: Family) -> ex.Reject:
    _expect(found.number(1) == _UNREACHABLE and found.number(2) == _PORT_UNREACHABLE[family])
    return ex.Reject()


def _counter(_: ex.Counter, __: Family) -> bytes:
    return u64(1, 0) + u64(2, 0)


def _read_counter(found: Attributes, _: Family) -> ex.Counter:
    return ex.Counter()


_Encode = Callable[..., bytes]
_Decode = Callable[[Attributes, Family], ex.Expression]
_ENCODERS: dict[type[ex.Expression], tuple[str, _Encode]] = {
    ex.Payload: ("payload", _payload),
    ex.LoadMeta: ("meta", _load_meta),
    ex.StoreMeta: ("meta", _store_meta),
    ex.LoadCt: ("ct", _load_ct),
    ex.LoadAddressType: ("fib", _fib),
    ex.Random: ("numgen", _numgen),
    ex.Immediate: ("immediate", _immediate),
    ex.Bitwise: ("bitwise", _bitwise),
    ex.Compare: ("cmp", _compare),
    ex.Lookup: ("lookup", _lookup),
    ex.Dynamic: ("dynset", _dynamic),
    ex.DestinationNat: ("nat", _nat),
    ex.Masquerade: ("masq", _masquerade),
    ex.Reject: ("reject", _reject),
    ex.Counter: ("counter", _counter),
    ex.Decide: ("immediate", _decide),
}
_DECODERS: dict[str, _Decode] = {
    "payload": _read_payload,
    "meta": _read_meta,
    "ct": _read_ct,
    "fib": _read_fib,
    "numgen": _read_numgen,
    "immediate": _read_immediate,
    "bitwise": _read_bitwise,
    "cmp": _read_compare,
    "lookup": _read_lookup,
    "dynset": _read_dynamic,
    "nat": _read_nat,
    "masq": _read_masquerade,
    "reject": _read_reject,
    "counter": _read_counter,
}
