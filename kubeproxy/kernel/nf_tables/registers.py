"""Which registers an expression reads and writes. Pure.

Since 6.5 the kernel refuses a rule that reads what nothing before it in the rule has written (ENODATA); older ones
hand out whatever is there.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.model.addresses import Family

_BYTES = 4
_NAME_BYTES = 16
"""Of an interface's name."""

Lengths = Callable[[str], tuple[int, int]]
"""Bytes of a set's key and data, by its name."""


class Span(NamedTuple):
    """Registers in a row."""

    first: int
    length: int
    """Bytes."""

    def registers(self) -> range:
        """Return them one by one."""
        return range(self.first, self.first + -(-self.length // _BYTES))


def _meta_bytes(key: ex.Meta) -> int:
    return _NAME_BYTES if key in (ex.Meta.IIFNAME, ex.Meta.OIFNAME) else _BYTES


def written(expression: ex.Expression, lengths: Lengths) -> Iterator[Span]:
    """Yield what an expression writes."""
    match expression:
        case ex.Payload(_, _, length, to):
            yield Span(to, length)
        case ex.LoadMeta(key, to):
            yield Span(to, _meta_bytes(key))
        case ex.LoadCt(_, to) | ex.LoadAddressType(_, to) | ex.Random(_, to):
            yield Span(to, _BYTES)
        case ex.Immediate(value, to):
            yield Span(to, len(value))
        case ex.Bitwise(register, mask, _):
            yield Span(register, len(mask))
        case ex.Lookup(name, _, to) if to is not None:
            yield Span(to, lengths(name)[1])
        case _:
            pass


def read(expression: ex.Expression, family: Family, lengths: Lengths) -> Iterator[Span]:
    """Yield what an expression reads."""
    match expression:
        case ex.StoreMeta(_, source):
            yield Span(source, _BYTES)
        case ex.Bitwise(register, value, _) | ex.Compare(register, _, value):
            yield Span(register, len(value))
        case ex.Lookup(name, source):
            yield Span(source, lengths(name)[0])
        case ex.Dynamic(_, name, key, data):
            yield Span(key, lengths(name)[0])
            if data is not None:
                yield Span(data, lengths(name)[1])
        case ex.DestinationNat(address, port):
            yield Span(address, family.host_bits // 8)
            if port is not None:
                yield Span(port, 2)
        case _:
            pass
