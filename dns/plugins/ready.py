"""`ready [ADDRESS]`: /ready is 503 and names who is waited for, until every plugin of the block is ready."""

from dns.chain import Build, Page
from dns.corefile import Directive
from dns.plugins.listen import http_address

DEFAULT_ADDRESS = ":8181"


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    for option in directive.block:
        raise option.wrong(f"option '{option.name}' of ready is not built yet")
    been_ready: set[str] = set()

    def render() -> tuple[int, str, bytes]:
        # As in CoreDNS, who was ready once is not asked again: a lost API server must not take the pod, whose
        # answers are still good, out of its Service.
        been_ready.update(name for name, is_ready in build.readiness if name not in been_ready and is_ready())
        waiting = sorted({name for name, _ in build.readiness} - been_ready)
        if waiting:
            return 503, "text/plain", ",".join(waiting).encode("ascii")
        return 200, "text/plain", b"OK"

    build.pages.append(Page(http_address(directive, DEFAULT_ADDRESS), "/ready", render))
