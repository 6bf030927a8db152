"""`health [ADDRESS]`: /health says OK while the process runs; `lameduck` keeps answering before the end."""

from dns.chain import Build, Page
from dns.corefile import Directive
from dns.plugins.listen import http_address
from kubeproxy.flags import duration

DEFAULT_ADDRESS = ":8080"


def _healthy() -> tuple[int, str, bytes]:
    return 200, "text/plain", b"OK"


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    build.pages.append(Page(http_address(directive, DEFAULT_ADDRESS), "/health", _healthy))
    for option in directive.block:
        if option.name != "lameduck":
            raise option.wrong(f"unknown property '{option.name}'")
        try:
            build.lameduck = duration(option.one_arg())
        except ValueError as error:
            raise option.wrong(str(error)) from None
