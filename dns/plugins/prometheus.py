"""`prometheus [ADDRESS]`: /metrics with CoreDNS's metric names."""

from dns.chain import Build, Page
from dns.corefile import Directive
from dns.metrics import CONTENT_TYPE
from dns.plugins.listen import http_address

DEFAULT_ADDRESS = "localhost:9153"


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    for option in directive.block:
        raise option.wrong(f"unknown property '{option.name}'")
    metrics = build.runtime.metrics
    build.metered = True
    for plugin in dict.fromkeys(one.name for one in build.block.directives):
        for zone in build.zones:
            metrics.gauge(
                "coredns_plugin_enabled", "A metric that indicates whether a plugin is enabled.",
                lambda: 1.0, server="dns://", zone=zone, view="", name=plugin,
            )  # fmt: skip

    def render() -> tuple[int, str, bytes]:
        return 200, CONTENT_TYPE, metrics.exposition()

    build.pages.append(Page(http_address(directive, DEFAULT_ADDRESS), "/metrics", render))
