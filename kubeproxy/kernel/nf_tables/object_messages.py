"""Tables, chains, rules and sets, to the bodies of the kernel's messages and back. Pure."""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from kubeproxy.kernel.netlink_messages import attribute, attribute_map, decode_text, netfilter_head, text_attribute
from kubeproxy.kernel.nf_tables import numbers as n
from kubeproxy.kernel.nf_tables import userdata
from kubeproxy.kernel.nf_tables.attributes import Attributes, nested, u32
from kubeproxy.kernel.nf_tables.fields import data_bytes, field_bytes, fields_bytes, type_number
from kubeproxy.kernel.nf_tables.rule_messages import decode_expressions, encode_expressions
from kubeproxy.kernel.nf_tables.types import VERDICTS, Base, Chain, Field, Hook, Rule, SetSpec
from kubeproxy.kernel.nf_tables.userdata import decode_comment, decode_fields, encode_comment
from kubeproxy.model.addresses import Family

_HOOKS = {Hook.PREROUTING: 0, Hook.INPUT: 1, Hook.FORWARD: 2, Hook.OUTPUT: 3, Hook.POSTROUTING: 4}
_HOOK_OF = {number: hook for hook, number in _HOOKS.items()}
_TABLE = 1
"""The attribute that names the table, of every object."""
HEAD_BYTES = 4
"""What the body of every message begins with (struct nfgenmsg)."""


class Undecodable(ValueError):
    """An answer of the kernel that lacks what it must have."""


def head(family: Family, kind: int, table: str) -> bytes:
    """Encode what all messages about a table's objects begin with; ``kind`` is the attribute with its name."""
    return netfilter_head(family) + text_attribute(kind, table)


def table_of(body: bytes) -> str:
    """Return the table that an answer is about, "" when it does not say."""
    return decode_text(attribute_map(body, HEAD_BYTES).get(_TABLE, b""))


def _userdata(kind: int, comment: str) -> bytes:
    return attribute(kind, encode_comment(comment)) if comment else b""


def encode_table(family: Family, name: str, comment: str = "", *, dormant: bool = False) -> bytes:
    """Encode a table."""
    flags = n.TABLE_DORMANT if dormant else 0
    return head(family, n.Table.NAME, name) + u32(n.Table.FLAGS, flags) + _userdata(n.Table.USERDATA, comment)


def decode_dormant(body: bytes) -> bool:
    """Return whether packets do not pass a table."""
    return bool(Attributes(body[HEAD_BYTES:]).number(n.Table.FLAGS, 0) & n.TABLE_DORMANT)


def decode_table_handle(body: bytes) -> int:
    """Return the number that a table has as long as it lives."""
    return Attributes(body[HEAD_BYTES:]).number(n.Table.HANDLE, 0)


def encode_table_name(family: Family, name: str) -> bytes:
    """Encode a question for a table, or the order to delete it."""
    return head(family, n.Table.NAME, name)


def encode_chain(family: Family, table: str, chain: Chain) -> bytes:
    """Encode a chain."""
    found = encode_chain_name(family, table, chain.name)
    if chain.base is not None:
        priority = u32(n.Chain.HOOK_PRIORITY, chain.base.priority)
        found += nested(n.Chain.HOOK, u32(n.Chain.HOOK_NUMBER, _HOOKS[chain.base.hook]) + priority)
        policy = n.POLICY_ACCEPT if chain.base.policy == "accept" else n.POLICY_DROP
        found += u32(n.Chain.POLICY, policy) + text_attribute(n.Chain.KIND, chain.base.kind)
    return found + _userdata(n.Chain.USERDATA, chain.comment)


def encode_chain_name(family: Family, table: str, name: str) -> bytes:
    """Encode a question for a chain, or the order to delete it."""
    return head(family, n.Chain.TABLE, table) + text_attribute(n.Chain.NAME, name)


def decode_chain(body: bytes) -> Chain:
    """Decode a chain. Raises Undecodable."""
    found = Attributes(body[HEAD_BYTES:])
    try:
        base = _decode_base(found) if n.Chain.HOOK in found else None
        comment = decode_comment(found.raw(n.Chain.USERDATA, b""))
        bound = bool(found.number(n.Chain.FLAGS, 0) & n.ChainFlag.BINDING)
        return Chain(found.text(n.Chain.NAME), base, comment, bound)
    except (KeyError, ValueError) as error:
        raise Undecodable(f"a chain without {error}") from error


def _decode_base(found: Attributes) -> Base:
    hook = found.within(n.Chain.HOOK)
    priority = int.from_bytes(hook.raw(n.Chain.HOOK_PRIORITY), "big", signed=True)
    accepts = found.number(n.Chain.POLICY, n.POLICY_ACCEPT) == n.POLICY_ACCEPT
    where = _HOOK_OF[hook.number(n.Chain.HOOK_NUMBER)]
    return Base(found.text(n.Chain.KIND), where, priority, "accept" if accepts else "drop")


def encode_rule(family: Family, table: str, rule: Rule) -> bytes:
    """Encode a rule."""
    expressions = nested(n.Rule.EXPRESSIONS, encode_expressions(rule.expressions, family))
    return encode_rules_of(family, table, rule.chain) + expressions + _userdata(n.Rule.USERDATA, rule.comment)


def encode_rules_of(family: Family, table: str, chain: str) -> bytes:
    """Encode a question for the rules of a chain, or the order to delete them all."""
    return head(family, n.Rule.TABLE, table) + text_attribute(n.Rule.CHAIN, chain)


def decode_rule(body: bytes, family: Family) -> tuple[int, Rule]:
    """Decode a rule, after its handle. Raises Undecodable."""
    found = Attributes(body[HEAD_BYTES:])
    try:
        expressions = decode_expressions(found.raw(n.Rule.EXPRESSIONS, b""), family)
        comment = decode_comment(found.raw(n.Rule.USERDATA, b""))
        rule = Rule(found.text(n.Rule.CHAIN), expressions, comment)
        return found.number(n.Rule.HANDLE), rule
    except KeyError as error:
        raise Undecodable(f"a rule without {error}") from error


def encode_set(family: Family, table: str, spec: SetSpec, number: int) -> bytes:
    """Encode a set; ``number`` is another for each that one transaction makes."""
    found = encode_set_name(family, table, spec.name)
    found += u32(n.Set.FLAGS, _flags(spec)) + u32(n.Set.KEY_TYPE, type_number(spec.key, family))
    found += u32(n.Set.KEY_LENGTH, fields_bytes(spec.key, family))
    if spec.data == VERDICTS:
        found += u32(n.Set.DATA_TYPE, n.VERDICT_TYPE) + u32(n.Set.DATA_LENGTH, n.VERDICT_LENGTH)
    elif isinstance(spec.data, tuple):
        found += u32(n.Set.DATA_TYPE, type_number(spec.data, family))
        found += u32(n.Set.DATA_LENGTH, data_bytes(spec, family))
    described = u32(n.Set.DESCRIPTION_SIZE, spec.size) if spec.size else b""
    if spec.interval and len(spec.key) > 1:
        lengths = (u32(n.Set.FIELD_LENGTH, field_bytes(each, family)) for each in spec.key)
        fields = b"".join(nested(n.LIST_ELEMENT, each) for each in lengths)
        described += nested(n.Set.DESCRIPTION_CONCATENATION, fields)
    if described:
        found += nested(n.Set.DESCRIPTION, described)
    return found + u32(n.Set.ID, number) + attribute(n.Set.USERDATA, userdata.encode_set(spec, family))


def _flags(spec: SetSpec) -> int:
    flags = n.SetFlag.MAP if spec.data is not None else 0
    if spec.interval:
        flags |= n.SetFlag.INTERVAL | (n.SetFlag.CONCATENATION if len(spec.key) > 1 else 0)
    if spec.dynamic:
        flags |= n.SetFlag.DYNAMIC | n.SetFlag.TIMEOUT
    return flags


def encode_set_name(family: Family, table: str, name: str = "") -> bytes:
    """Encode a question for a set (without a name: for all), or the order to delete it."""
    return head(family, n.Set.TABLE, table) + (text_attribute(n.Set.NAME, name) if name else b"")


@lru_cache(maxsize=256)
def encode_elements_of(family: Family, table: str, name: str) -> bytes:
    """Encode a question for a set's elements, or the order to delete them all."""
    return head(family, n.ElementList.TABLE, table) + text_attribute(n.ElementList.SET, name)


def decode_set(body: bytes, family: Family) -> SetSpec:
    """Decode a set. Raises Undecodable."""
    found = Attributes(body[HEAD_BYTES:])
    try:
        return _decode_set(found, family)
    except (KeyError, ValueError) as error:
        raise Undecodable(f"a set without {error}") from error


def is_anonymous(body: bytes) -> bool:
    """Return whether a set is part of a rule, and goes with it. Raises Undecodable."""
    try:
        return bool(Attributes(body[HEAD_BYTES:]).number(n.Set.FLAGS, 0) & n.SetFlag.ANONYMOUS)
    except ValueError as error:
        raise Undecodable(f"a set with flags that are {error}") from error


_OURS = n.SetFlag.MAP | n.SetFlag.INTERVAL | n.SetFlag.CONCATENATION | n.SetFlag.DYNAMIC | n.SetFlag.TIMEOUT


def _decode_set(found: Attributes, family: Family) -> SetSpec:
    flags, kept = found.number(n.Set.FLAGS, 0), found.raw(n.Set.USERDATA, b"")
    key = decode_fields(kept, of_key=True, type_number=found.number(n.Set.KEY_TYPE, 0), family=family)
    data: tuple[Field, ...] | str | None = None
    if flags & n.SetFlag.MAP:
        number = found.number(n.Set.DATA_TYPE, 0)
        data = decode_fields(kept, of_key=False, type_number=number, family=family)
        data = VERDICTS if number == n.VERDICT_TYPE else data
    description = Attributes(found.raw(n.Set.DESCRIPTION, b""))
    spec = SetSpec(
        name=found.text(n.Set.NAME),
        key=key,
        data=data,
        interval=bool(flags & n.SetFlag.INTERVAL),
        dynamic=bool(flags & n.SetFlag.DYNAMIC),
        size=description.number(n.Set.DESCRIPTION_SIZE, 0),
        comment=userdata.decode_set_comment(kept),
        anonymous=bool(flags & n.SetFlag.ANONYMOUS),
    )
    lengths = found.number(n.Set.KEY_LENGTH), found.number(n.Set.DATA_LENGTH, 0)
    return (
        msgspec.structs.replace(spec, otherwise=True)
        if _is_otherwise(spec, flags, lengths, found, family)
        else spec
    )


def _is_otherwise(spec: SetSpec, flags: int, lengths: tuple[int, int], found: Attributes, family: Family) -> bool:
    if flags & ~_OURS or any(kind in found for kind in (n.Set.TIMEOUT, n.Set.EXPRESSION, n.Set.EXPRESSIONS)):
        return True
    if spec.dynamic is not bool(flags & n.SetFlag.TIMEOUT):
        return True
    data = n.VERDICT_LENGTH if spec.data == VERDICTS else data_bytes(spec, family)
    return lengths != (fields_bytes(spec.key, family), data)


def decode_generation(answers: Sequence[bytes]) -> int:
    """Return the generation. Raises Undecodable."""
    try:
        return Attributes(answers[0][HEAD_BYTES:]).number(n.GENERATION_ID)
    except (IndexError, KeyError) as error:
        raise Undecodable(f"a generation without {error}") from error
