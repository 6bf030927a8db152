"""Why the kernel refused a transaction, in words that name the object and say what to do."""

import errno
import os
import struct
from collections.abc import Mapping
from typing import NamedTuple

from kubeproxy.kernel.netlink_messages import attribute_map
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.batch import Part
from kubeproxy.kernel.nf_tables.element_messages import element_at
from kubeproxy.kernel.nf_tables.expressions import Decide
from kubeproxy.kernel.nf_tables.fields import text
from kubeproxy.model.addresses import Family

_HEADER_BYTES, _ERROR_BYTES = 16, 20
"""Of a message's header; of an error: the number and the header of the message that it is about."""
_OFFSET = 2


class Refusal(NamedTuple):
    """What an error message says."""

    code: int
    sequence: int
    offset: int | None
    """Of the attribute that is to blame, from the beginning of its message; None from kernels that do not say."""


def decode_refusal(sequence: int, body: bytes) -> Refusal:
    """Decode the body of an NLMSG_ERROR whose request is left out (NETLINK_CAP_ACK)."""
    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else errno.EBADMSG
    where = attribute_map(body, _ERROR_BYTES).get(_OFFSET, b"")
    offset = struct.unpack("=I", where)[0] if len(where) == 4 else None
    return Refusal(code, sequence, offset)


def refused_element(refusal: Refusal, part: Part, change: t.Change) -> int | None:
    """Return which of a step's elements is to blame."""
    if not isinstance(change, t.AddElements | t.DeleteElements):
        return None
    if refusal.offset is not None:
        found = element_at(part.body, refusal.offset - _HEADER_BYTES)
        return None if found is None else part.first + found
    return 0 if len(change.elements) == 1 else None


_HINTS = {
    errno.EPERM: "CAP_NET_ADMIN is needed in this network namespace",
    errno.EMSGSIZE: "the transaction does not fit into the socket's buffer; raise net.core.wmem_max",
    errno.ENOBUFS: "the kernel's answer was lost, and so it is not known what was done; everything is read again",
    errno.ENOMEM: "the kernel has no memory left",
    errno.EINTR: "interrupted, nothing is done; it is tried again",
    errno.ERESTART: "somebody else changed nf_tables meanwhile; it is read and tried again",
    errno.EOPNOTSUPP: "this kernel cannot do that here; it may lack nf_tables (modprobe nf_tables)",
    errno.EMLINK: "chains lead to one another too deep, or in a loop",
    errno.ELOOP: "chains lead to one another in a loop",
}
_ABOUT_ELEMENTS = {
    errno.EEXIST: "is there with other data, or overlaps another",
    errno.EBUSY: "is there with other data",
    errno.EINVAL: "does not have this set's shape",
    errno.ENFILE: "the set is full",
    errno.ENOSPC: "the set is full",
}
_ABOUT_OBJECTS = {
    errno.EEXIST: "there is another of this name",
    errno.EBUSY: "is still in use",
    errno.ENOENT: "there is no such thing, or it refers to none",
}


def explained(
    code: int,
    where: str,
    change: t.Change | None,
    element: int | None = None,
    family: Family = Family.V4,
    sets: Mapping[str, t.SetSpec] | None = None,
) -> str:
    """Say what was refused and why: in which table (``where``), which object, which of its elements."""
    sets = sets or {}
    if change is None:
        return f"{where}: {_HINTS.get(code) or os.strerror(code)}"
    what = f"{where}, {_named(change)}"
    if not isinstance(change, t.AddElements | t.DeleteElements):
        return f"{what}: {_ABOUT_OBJECTS.get(code) or _HINTS.get(code) or os.strerror(code)}"
    if element is not None:
        what += f", element {_element(change.elements[element], sets.get(change.set), family)}"
    why = _absent(change, sets) if code == errno.ENOENT else _ABOUT_ELEMENTS.get(code)
    return f"{what}: {why or _HINTS.get(code) or os.strerror(code)}"


def _absent(change: t.AddElements | t.DeleteElements, sets: Mapping[str, t.SetSpec]) -> str:
    if sets and change.set not in sets:
        return "there is no such set"
    return "is not in the set" if isinstance(change, t.DeleteElements) else "leads to a chain that is not there"


def _element(element: t.Element, spec: t.SetSpec | None, family: Family) -> str:
    fields = spec.key if spec else ()
    words = text(element.key, fields, family)
    if element.end is not None:
        words += f"-{text(element.end, fields, family)}"
    if isinstance(element.data, Decide):
        words += f" : {element.data.word} {element.data.chain}".rstrip()
    elif element.data is not None:
        words += f" : {text(element.data, spec.data if spec and isinstance(spec.data, tuple) else (), family)}"
    return words + (f" ({element.comment})" if element.comment else "")


def _named(change: t.Change) -> str:
    match change:
        case t.AddTable() | t.DeleteTable():
            return "the table"
        case t.AddChain(chain):
            return f"chain {chain.name}"
        case t.AddRule(rule):
            return f"a rule of chain {rule.chain}"
        case t.FlushChain(name) | t.DeleteChain(name):
            return f"chain {name}"
        case t.AddSet(spec):
            return f"set {spec.name}"
        case t.FlushSet(name) | t.DeleteSet(name) | t.AddElements(name, _) | t.DeleteElements(name, _):
            return f"set {name}"
        case _:
            return type(change).__name__
