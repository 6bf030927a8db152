"""Attributes as nf_tables writes them: numbers in network order, registers, values and verdicts. Pure.

A register is named by four of its bytes (NFT_REG32_00 = 8 and on); the kernel calls every fourth by an older name
(NFT_REG_1 = 1 and on), and 0 is the register of the verdict.
"""

import struct

from kubeproxy.kernel.netlink_messages import (
    NLA_F_NESTED,
    attribute,
    attribute_map,
    decode_text,
    text_attribute,
)
from kubeproxy.kernel.nf_tables.expressions import Decide, VerdictWord
from kubeproxy.kernel.nf_tables.numbers import DATA_VALUE, DATA_VERDICT, VERDICT_CHAIN, VERDICT_CODE

REGISTERS = 16
_FIRST_REGISTER, _IN_AN_OLD_ONE = 8, 4
_VERDICTS = {
    VerdictWord.DROP: 0,
    VerdictWord.ACCEPT: 1,
    VerdictWord.JUMP: -3,
    VerdictWord.GOTO: -4,
    VerdictWord.RETURN: -5,
}
_WORDS = {number: word for word, number in _VERDICTS.items()}


def u32(kind: int, value: int) -> bytes:
    """Encode a number of 32 bits."""
    return struct.pack("=HH", 8, kind) + (value & 0xFFFFFFFF).to_bytes(4, "big")


def u64(kind: int, value: int) -> bytes:
    """Encode a number of 64 bits."""
    return struct.pack("=HH", 12, kind) + value.to_bytes(8, "big")


def nested(kind: int, body: bytes) -> bytes:
    """Encode an attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, body)


def register(kind: int, number: int) -> bytes:
    """Encode a register by our number, 0 to 15."""
    return u32(kind, _FIRST_REGISTER + number)


def value(kind: int, plain: bytes) -> bytes:
    """Encode data that is a value."""
    return nested(kind, attribute(DATA_VALUE, plain))


def verdict(kind: int, decide: Decide) -> bytes:
    """Encode data that is a verdict."""
    chain = text_attribute(VERDICT_CHAIN, decide.chain) if decide.chain else b""
    return nested(kind, nested(DATA_VERDICT, u32(VERDICT_CODE, _VERDICTS[decide.word]) + chain))


class Attributes:
    """The attributes of something that came from the kernel.

    Methods raise KeyError for one that is missing, ValueError for one that makes no sense.
    """

    def __init__(self, data: bytes) -> None:
        self._found = attribute_map(data)

    def __contains__(self, kind: int) -> bool:
        return kind in self._found

    def raw(self, kind: int, default: bytes | None = None) -> bytes:
        """Return an attribute as it is."""
        return self._found[kind] if default is None else self._found.get(kind, default)

    def number(self, kind: int, default: int | None = None) -> int:
        """Return an unsigned number of any length."""
        if default is not None and kind not in self._found:
            return default
        return int.from_bytes(self._found[kind], "big")

    def text(self, kind: int, default: str | None = None) -> str:
        """Return a text."""
        if default is not None and kind not in self._found:
            return default
        return decode_text(self._found[kind])

    def within(self, kind: int) -> "Attributes":
        """Return the attributes that one holds."""
        return Attributes(self._found[kind])

    def register(self, kind: int) -> int:
        """Return a register by our number."""
        number = self.number(kind)
        plain = number - _FIRST_REGISTER if number >= _FIRST_REGISTER else (number - 1) * _IN_AN_OLD_ONE
        if not 0 <= plain < REGISTERS:
            raise ValueError(f"register {number}")
        return plain

    def value(self, kind: int) -> bytes:
        """Return data that is a value."""
        return self.within(kind).raw(DATA_VALUE)

    def verdict(self, kind: int) -> Decide:
        """Return data that is a verdict."""
        found = self.within(kind).within(DATA_VERDICT)
        code = int.from_bytes(found.raw(VERDICT_CODE), "big", signed=True)
        return Decide(_WORDS[code], found.text(VERDICT_CHAIN, ""))
