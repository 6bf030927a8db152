"""What `GET /services` may be asked, checked. Pure."""

from collections.abc import Mapping

from kubeproxy.model.ident import Key
from kubeproxy.model.names import is_label
from kubeproxy.model.objects import Record
from kubeproxy.trace.question import LONGEST, BadQuestion, parse_service

DEFAULT_TOP, MOST = 20, 200
"""Service ports of one answer: destinations are read one virtual server at a time."""
_PARAMETERS = ("namespace", "service", "top")


class Question(Record, frozen=True, kw_only=True):
    """Which Services are asked about."""

    service: Key | None = None
    namespace: str = ""
    """"" for all."""
    top: int = DEFAULT_TOP
    """How many Service ports, the busiest first."""

    @property
    def is_open(self) -> bool:
        """Whether all Services are meant, and who else is there."""
        return self.service is None and not self.namespace

    def admits(self, key: Key) -> bool:
        """Return whether a Service is meant."""
        return self.service in (None, key) and self.namespace in ("", key[0])


def parse(values: Mapping[str, str]) -> Question:
    """Check a query's parameters. Raises BadQuestion."""
    for name, value in values.items():
        if name not in _PARAMETERS:
            raise BadQuestion(f"unknown parameter {name[:40]!r}; known are {', '.join(_PARAMETERS)}")
        if len(value) > LONGEST:
            raise BadQuestion(f"{name} is longer than {LONGEST} characters")
    namespace, top = values.get("namespace", ""), values.get("top", str(DEFAULT_TOP))
    if namespace and not is_label(namespace):
        raise BadQuestion(f"namespace {namespace[:80]!r} is none")
    if not (top.isascii() and top.isdigit() and 0 < int(top[:6]) <= MOST):
        raise BadQuestion(f"top {top[:20]!r} is not between 1 and {MOST}")
    service = values.get("service", "")
    return Question(
        service=parse_service(service) if service else None,
        namespace=namespace,
        top=MOST if service else int(top),
    )
