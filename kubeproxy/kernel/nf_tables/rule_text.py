"""A rule in the words of `nft list`, from its expressions: what `kubeproxy trace` shows where no `nft` is. Pure.

Registers are read as a person would: each holds the words for what was loaded into it. An expression that is none
of ours stands as its name in brackets, so a foreign rule is legible as far as it is like ours.
"""

from collections.abc import Mapping
from ipaddress import ip_network
from sys import byteorder

from kubeproxy.kernel.netlink_messages import PROTOCOL_NUMBER, address_text
from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables.types import Rule
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record

_FIELDS = {
    Family.V4: {(9, 1): "ip protocol", (12, 4): "ip saddr", (16, 4): "ip daddr"},
    Family.V6: {(6, 1): "ip6 nexthdr", (8, 16): "ip6 saddr", (24, 16): "ip6 daddr"},
}
_PORTS = {(0, 2): "th sport", (2, 2): "th dport"}
_STATES = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}
_STATUSES = {2: "seen-reply", 4: "assured", 8: "confirmed", 16: "snat", 32: "dnat"}
_ADDRESS_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast"}
_PROTOCOLS = {number: protocol.lower() for protocol, number in PROTOCOL_NUMBER.items()}
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


class _Term(Record, frozen=True, kw_only=True):
    """What a register holds."""

    words: str
    length: int = 4
    mask: bytes = b""
    """Of a bitwise operation that only compares."""
    value: bytes | None = None
    """Of a constant."""


def rule_text(rule: Rule, family: Family, key_bytes: Mapping[str, int] | None = None) -> str:
    """Return a rule as `nft list` has it, without its chain.

    ``key_bytes`` are the lengths of sets' keys; without, a key is taken to be all that was loaded in a row.
    """
    reading = _Reading(family, key_bytes or {})
    for each in rule.expressions:
        reading.take(each)
    comment = [f'comment "{rule.comment}"'] if rule.comment else []
    return " ".join([*reading.words, *comment])


def duration(seconds: int) -> str:
    """Write a time as nft does: `1m40s`."""
    words = ""
    for size, unit in _UNITS:
        count, seconds = divmod(seconds, size)
        words += f"{count}{unit}" if count else ""
    return words or "0s"


class _Reading:
    """Follows a rule through its registers."""

    def __init__(self, family: Family, key_bytes: Mapping[str, int]) -> None:
        self._family = family
        self._key_bytes = key_bytes
        self._held: dict[int, _Term] = {}
        self.words: list[str] = []

    def take(self, each: ex.Expression) -> None:
        match each:
            case ex.Payload():
                self._held[each.to] = self._payload(each)
            case ex.LoadMeta():
                self._held[each.to] = _Term(words=_META[each.key], length=16 if "name" in _META[each.key] else 4)
            case ex.LoadCt():
                self._held[each.to] = _Term(words="ct state" if each.key is ex.Ct.STATE else "ct status")
            case ex.LoadAddressType():
                self._held[each.to] = _Term(words=f"fib {'saddr' if each.of_source else 'daddr'} type")
            case ex.Random():
                self._held[each.to] = _Term(words=f"numgen random mod {each.modulus}")
            case ex.Immediate():
                self._held[each.to] = _Term(words="", length=len(each.value), value=each.value)
            case ex.Bitwise():
                self._held[each.register] = _combined(self._at(each.register), each)
            case ex.Lookup():
                self._look_up(each)
            case ex.Compare():
                self._compare(each)
            case _:
                self.words.append(self._statement(each))

    def _statement(self, each: ex.Expression) -> str:
        match each:
            case ex.StoreMeta():
                return f"{_META[each.key]} set {self._given(each.source, _META[each.key])}"
            case ex.Dynamic():
                data = "" if each.data is None else f" : {self._at(each.data).words}"
                time = f" timeout {duration(each.timeout)}" if each.timeout else ""
                return (
                    f"{each.operation.name.lower()} @{each.set} {{ {self._key(each.set, each.key)}{time}{data} }}"
                )
            case ex.DestinationNat():
                return self._translated(each)
            case ex.Masquerade():
                return "masquerade fully-random"
            case ex.Decide():
                return f"{each.word} {each.chain}".rstrip()
            case ex.Reject() | ex.Counter():
                return type(each).__name__.lower()
        return f"[{getattr(each, 'name', type(each).__name__.lower())}]"

    def _payload(self, each: ex.Payload) -> _Term:
        place = each.offset, each.length
        fields = _FIELDS[self._family] if each.header is ex.Header.NETWORK else _PORTS
        if place in fields:
            return _Term(words=fields[place], length=each.length)
        for (offset, length), words in fields.items():
            if (
                each.offset == offset and each.length < length
            ):  # a prefix of whole bytes is compared as these alone
                return _Term(words=words, length=length, mask=b"\xff" * each.length)
        base = "nh" if each.header is ex.Header.NETWORK else "th"
        return _Term(words=f"@{base},{each.offset * 8},{each.length * 8}", length=each.length)

    def _look_up(self, each: ex.Lookup) -> None:
        key = self._key(each.set, each.source)
        if each.to is not None:
            self._held[each.to] = _Term(words=f"{key} map @{each.set}")
        elif each.verdicts:
            self.words.append(f"{key} vmap @{each.set}")
        else:
            self.words.append(f"{key} {'!= ' if each.inverted else ''}@{each.set}")

    def _compare(self, each: ex.Compare) -> None:
        text = _compared(self._at(each.register), each)
        if text.startswith("th ") and self.words and self.words[-1].startswith("meta l4proto "):
            text = self.words.pop().removeprefix("meta l4proto ") + text.removeprefix("th")
        self.words.append(text)

    def _key(self, name: str, register: int) -> str:
        words = []
        end = register + -(-self._key_bytes[name] // 4) if name in self._key_bytes else 16
        while register < end and register in self._held:
            term = self._held[register]
            words.append(term.words)
            register += -(-term.length // 4)
        return " . ".join(words) or "?"

    def _translated(self, each: ex.DestinationNat) -> str:
        address = self._at(each.address)
        if address.value is None:
            return f"dnat {'ip6' if each.is_ipv6 else 'ip'} to {address.words}"
        text = address_text(address.value)
        if each.port is None:
            return f"dnat to {text}"
        port = self._given(each.port, "th dport")
        return f"dnat to [{text}]:{port}" if each.is_ipv6 else f"dnat to {text}:{port}"

    def _at(self, register: int) -> _Term:
        return self._held.get(register, _Term(words="?"))

    def _given(self, register: int, meaning: str) -> str:
        term = self._at(register)
        return term.words if term.value is None else _value(meaning, term.value)


_META = {key: f"meta {key.name.lower()}" for key in ex.Meta} | {
    ex.Meta(number): word for number, word in ((6, "iifname"), (7, "oifname")) if number in list(ex.Meta)
}


def _combined(term: _Term, each: ex.Bitwise) -> _Term:
    """Return what a register holds after (it & mask) ^ xor, which says `&`, `|` and `^`."""
    value = int.from_bytes(each.xor, byteorder)
    mask = int.from_bytes(each.mask, byteorder)
    every = (1 << 8 * len(each.mask)) - 1
    if not value:
        return _Term(words=term.words, length=term.length, mask=each.mask)
    sign = "^" if mask == every else "|" if mask == every ^ value else ""
    shown = _value(term.words, each.xor)
    words = f"{term.words} {sign} {shown}" if sign else f"{term.words} & {_value(term.words, each.mask)} ^ {shown}"
    return _Term(words=words, length=term.length)


def _compared(term: _Term, each: ex.Compare) -> str:
    sign = "!= " if each.operator is ex.Operator.UNEQUAL else ""
    flags = {"ct state": _STATES, "ct status": _STATUSES}.get(term.words)
    if flags and term.mask and not any(each.value):
        set_bits = int.from_bytes(term.mask, byteorder)
        named = ",".join(word for bit, word in flags.items() if set_bits & bit)
        return f"{term.words} {named}" if sign else f"{term.words} & ({named}) == 0"
    if term.mask and term.words.endswith("addr"):
        prefix = sum(each.bit_count() for each in term.mask)
        whole = each.value.ljust(term.length, b"\0")
        return f"{term.words} {sign}{ip_network((whole, prefix))}"
    masked = f"{term.words} & {_value(term.words, term.mask)} {sign or '== '}" if term.mask else ""
    return (masked or f"{term.words} {sign}") + _value(term.words, each.value)


def _value(meaning: str, value: bytes) -> str:
    """Return a constant as nft writes it where it is compared with, or given to, something."""
    number = int.from_bytes(value, byteorder)
    subject = meaning.split()[-1]
    if subject in ("saddr", "daddr") and len(value) in (4, 16):
        return address_text(value)
    if subject in ("iifname", "oifname"):
        return '"' + value.rstrip(b"\0").decode(errors="replace") + ("*" if len(value) < 16 else "") + '"'
    if subject in ("l4proto", "protocol", "nexthdr"):
        return _PROTOCOLS.get(value[0], str(value[0]))
    if subject in ("sport", "dport"):
        return str(int.from_bytes(value, "big"))
    if subject == "priority":
        return f"{number >> 16:x}:{number & 0xFFFF:x}" if number else "none"
    if subject == "type":
        return _ADDRESS_TYPES.get(number, str(number))
    if subject in ("state", "status"):
        flags = _STATES if subject == "state" else _STATUSES
        return ",".join(word for bit, word in flags.items() if number & bit) or "0"
    return f"{number:#010x}" if subject == "mark" else str(number)
