"""What `GET /trace` may be asked, checked: nothing unchecked gets past here. Pure."""

from collections.abc import Mapping

from kubeproxy.model.addresses import Family, canonical_ip, family_of
from kubeproxy.model.ident import Key
from kubeproxy.model.names import is_label, is_subdomain
from kubeproxy.model.objects import Protocol, Record
from kubeproxy.trace.packet import Origin

LONGEST = 320
"""No parameter is longer: two names of a Service, and a little."""
_PARAMETERS = frozenset(("service", "port", "source", "origin", "interface", "destination", "protocol", "family"))


class BadQuestion(ValueError):
    """A question that is none; the text says what is wrong with it."""


class Question(Record, frozen=True, kw_only=True):
    """A packet, or (without ``source``) a Service."""

    service: Key | None = None
    """The Service that is asked about, or that the packet goes to."""
    destination: str = ""
    port: str = ""
    """A number, or the name of the Service's port; "" for its only one."""
    protocol: Protocol | None = None
    source: str = ""
    origin: Origin | None = None
    """None: to be found out."""
    interface: str = ""
    family: Family | None = None

    @property
    def is_packet(self) -> bool:
        """Whether a packet is asked about."""
        return bool(self.source)


def parse(values: Mapping[str, str]) -> Question:
    """Check a query's parameters. Raises BadQuestion."""
    for name, value in values.items():
        if name not in _PARAMETERS:
            raise BadQuestion(f"unknown parameter {name[:40]!r}; known are {', '.join(sorted(_PARAMETERS))}")
        if len(value) > LONGEST:
            raise BadQuestion(f"{name} is longer than {LONGEST} characters")
    get = {name: values.get(name, "") for name in _PARAMETERS}
    service = parse_service(get["service"]) if get["service"] else None
    source, destination = (_address(name, get[name]) for name in ("source", "destination"))
    family = _family(get["family"], source, destination)
    if service is None and not destination:
        raise BadQuestion("neither a service nor a destination is named")
    if destination and not source:
        raise BadQuestion("a destination needs a source")
    return Question(
        service=service,
        destination=destination,
        port=_port(get["port"]),
        protocol=_protocol(get["protocol"]),
        source=source,
        origin=_origin(get["origin"]),
        interface=_interface(get["interface"]),
        family=family,
    )


def parse_service(text: str) -> Key:
    """Parse `namespace/name`. Raises BadQuestion."""
    namespace, _, name = text.partition("/")
    if not (is_label(namespace) and is_subdomain(name)):
        raise BadQuestion(f"service {text[:80]!r} is none; write namespace/name")
    return namespace, name


def _address(name: str, text: str) -> str:
    if not text:
        return ""
    found = canonical_ip(text)
    if found is None:
        raise BadQuestion(f"{name} {text[:80]!r} is no IP address")
    return found


def _family(text: str, source: str, destination: str) -> Family | None:
    families = {family_of(each) for each in (source, destination) if each}
    if text:
        if text not in ("4", "6"):
            raise BadQuestion(f"family {text[:20]!r} is neither 4 nor 6")
        families.add(Family(int(text)))
    if len(families) > 1:
        raise BadQuestion("source and destination must be of one IP family")
    return next(iter(families), None)


def _port(text: str) -> str:
    if text.isascii() and text.isdigit():
        if not 0 < int(text[:6]) < 65536 or len(text) > 5:
            raise BadQuestion(f"port {text[:20]} is not between 1 and 65535")
        return str(int(text))
    if text and not is_label(text):
        raise BadQuestion(f"port {text[:80]!r} is neither a number nor a port's name")
    return text


def _protocol(text: str) -> Protocol | None:
    if not text:
        return None
    try:
        return Protocol(text.upper())
    except ValueError:
        raise BadQuestion(f"protocol {text[:20]!r} is none of TCP, UDP, SCTP") from None


def _origin(text: str) -> Origin | None:
    if not text:
        return None
    try:
        return Origin(text)
    except ValueError:
        raise BadQuestion(f"origin {text[:20]!r} is none of pod, node, outside") from None


def _interface(text: str) -> str:
    if len(text) > 15 or any(not char.isprintable() or char in "/ " for char in text):
        raise BadQuestion("interface: no name of one")
    return text
