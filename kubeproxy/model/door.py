"""Parts of API objects, checked: what is usable goes on, and what is not is noted and left out.

Whoever writes past the API server's validation can put anything anywhere. Every part that cannot be used
becomes one `Fault` of its object, with the field's path, so that it is reported and not just missing.
"""

from collections.abc import Iterable

from kubeproxy.model.addresses import canonical_cidr, canonical_ip
from kubeproxy.model.names import is_label
from kubeproxy.model.objects import Fault, Protocol

MAX_FAULTS = 20
"""An object with more is wrong as a whole; nobody reads ten thousand lines about it."""
FIRST_UNPRIVILEGED = 1024
MAX_VALUE = 60
"""Characters of a value that are shown."""


class Door:
    """Collects the faults of one object."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._more = 0

    def refuse(self, field: str, value: object, reason: str) -> None:
        """Note that a part is left out. The value may be anything: it is shown in printable ASCII, cut short."""
        if len(self._faults) == MAX_FAULTS:
            self._more += 1
            return
        shown = ascii(value)
        shown = shown if len(shown) <= MAX_VALUE else f"{shown[:MAX_VALUE]}..."
        fault = Fault(field=field, value=shown, reason=reason)
        if fault not in self._faults:
            self._faults.append(fault)

    def faults(self) -> tuple[Fault, ...]:
        """Return what was noted."""
        if not self._more:
            return tuple(self._faults)
        rest = Fault(field="and", value=str(self._more), reason="more of the kind")
        return (*self._faults, rest)

    def ips(self, field: str, texts: Iterable[str]) -> tuple[str, ...]:
        """Return canonical addresses, each once."""
        found: dict[str, None] = {}
        for text in texts:
            ip = canonical_ip(text)
            if ip is not None:
                found[ip] = None
            else:
                self.refuse(field, text, "no IP address")
        return tuple(found)

    def cidrs(self, field: str, texts: Iterable[str]) -> tuple[str, ...]:
        """Return canonical networks, each once."""
        found: dict[str, None] = {}
        for text in texts:
            network = canonical_cidr(text)
            if network is not None:
                found[network] = None
            else:
                self.refuse(field, text, "no CIDR")
        return tuple(found)

    def port(self, field: str, number: int | None) -> int:
        """Return a port, 0 when there is none that can be used; none at all is no fault."""
        if number is None:
            return 0
        if 0 < number < 65536:
            return number
        self.refuse(field, number, "no port (1 to 65535)")
        return 0

    def optional_port(self, field: str, number: int | None) -> int:
        """Return the same where 0 means that there is none."""
        return self.port(field, number) if number else 0

    def unprivileged_port(self, field: str, number: int | None) -> int:
        """Return the same of a port on which this node is to listen: no tenant gets one of the system's."""
        if number and 0 < number < FIRST_UNPRIVILEGED:
            self.refuse(field, number, f"a port of the system's (below {FIRST_UNPRIVILEGED})")
            return 0
        return self.optional_port(field, number)

    def protocol(self, field: str, text: str | None) -> Protocol | None:
        """Return a protocol; the API's default is TCP."""
        if not text:
            return Protocol.TCP
        if text in Protocol.__members__:
            return Protocol(text)
        self.refuse(field, text, "no protocol (TCP, UDP or SCTP)")
        return None

    def port_name(self, field: str, text: str | None) -> str | None:
        """Return a port's name, which may be empty."""
        if not text or is_label(text):
            return text or ""
        self.refuse(field, text, "no name of a port")
        return None
