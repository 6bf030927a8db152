"""SRC and DST as people write them: addresses, pods, Services, nodes, with port and protocol. Pure."""

import re
from enum import StrEnum

from kubeproxy.model.addresses import canonical_ip
from kubeproxy.model.names import is_label, is_subdomain
from kubeproxy.model.objects import Protocol, Record

FORMS = "an IP address, pod/NAME[.NS], service/NAME[.NS], a node's name, outside, node or localhost"


class EndError(ValueError):
    """A SRC or DST that is none; the text says why."""


class Kind(StrEnum):
    """What an end is."""

    ADDRESS = "address"
    POD = "pod"
    SERVICE = "service"
    NODE = "node"
    """By name."""
    THIS_NODE = "this node"
    OUTSIDE = "outside"
    LOCALHOST = "localhost"


_WORDS = {"outside": Kind.OUTSIDE, "localhost": Kind.LOCALHOST, "node": Kind.THIS_NODE}
_KINDS = {"pod": Kind.POD, "po": Kind.POD, "service": Kind.SERVICE, "svc": Kind.SERVICE, "node": Kind.NODE}


class End(Record, frozen=True, kw_only=True):
    """One end of a packet's way."""

    kind: Kind
    name: str = ""
    """Address or name."""
    namespace: str = ""
    port: str = ""
    protocol: Protocol | None = None


def parse_end(text: str, *, ported: bool) -> End:
    """Parse an end; only a destination is ``ported``. Raises EndError."""
    kind, slash, rest = text.partition("/")
    if slash and kind.lower() in _KINDS:
        return _named(_KINDS[kind.lower()], rest, text, ported)
    bare, port, protocol = _split(text, ported)
    if bare in _WORDS:
        return End(kind=_WORDS[bare], port=port, protocol=protocol)
    address = canonical_ip(bare.removeprefix("[").removesuffix("]"))
    if address is not None:
        return End(kind=Kind.ADDRESS, name=address, port=port, protocol=protocol)
    if is_subdomain(bare) and not re.fullmatch(r"[0-9.]+", bare):
        return End(kind=Kind.NODE, name=bare, port=port, protocol=protocol)
    raise EndError(f"{text[:80]!r} is none of these: {FORMS}")


def _named(kind: Kind, rest: str, text: str, ported: bool) -> End:
    bare, port, protocol = _split(rest, ported)
    if kind is Kind.NODE:
        name, namespace = bare, ""
    elif "/" in bare:
        namespace, _, name = bare.partition("/")
    else:
        name, dot, namespace = bare.rpartition(".")
        if not dot:
            name, namespace = bare, "default"
    if not is_subdomain(name) or (kind is not Kind.NODE and not is_label(namespace)):
        raise EndError(f"{text[:80]!r}: write {kind}/NAME[.NAMESPACE]" + ("[:PORT][/PROTOCOL]" if ported else ""))
    return End(kind=kind, name=name, namespace=namespace, port=port, protocol=protocol)


def _split(text: str, ported: bool) -> tuple[str, str, Protocol | None]:
    if not ported:
        return text, "", None
    if canonical_ip(text) is not None:  # an IPv6 address without brackets has colons of its own
        return text, "", None
    bare, port, protocol = text, "", None
    head, slash, tail = text.rpartition("/")
    if slash and tail.upper() in Protocol.__members__:
        bare, protocol = head, Protocol(tail.upper())
    elif slash and "/" not in head and not is_label(tail.partition(":")[0]):
        raise EndError(f"{tail[:20]!r} is none of the protocols TCP, UDP, SCTP")
    if canonical_ip(bare) is None:
        head, colon, tail = bare.rpartition(":")
        if colon and not tail.endswith("]"):
            bare, port = head, tail
    if port and not (port.isascii() and (port.isdigit() or is_label(port))):
        raise EndError(f"{port[:20]!r} is no port")
    return bare, port, protocol
