"""The plugins: one module each, and one list that fixes the order in which they see a query.

The order is CoreDNS's plugin.cfg, not the Corefile's. A name in ORDER without a row in SETUP is a plugin of
CoreDNS that is not built here yet: a Corefile that uses it is refused, never silently half obeyed.
"""

from collections.abc import Callable

from dns.chain import Build
from dns.corefile import Directive
from dns.plugins import (
    bind,
    cache,
    errors,
    forward,
    health,
    kubernetes,
    loadbalance,
    log,
    loop,
    prometheus,
    ready,
    reload,
)

ORDER = (
    "root", "metadata", "geoip", "cancel", "proxyproto", "tls", "quic", "grpc_server", "https", "https3",
    "timeouts", "multisocket", "reload", "nsid", "bufsize", "bind", "debug", "trace", "ready", "health", "pprof",
    "shed",
    "prometheus", "errors", "log", "dnstap", "local", "dns64", "any", "chaos", "loadbalance", "tsig", "rewrite",
    "autopath", "acl", "cache", "header", "dnssec", "minimal", "template", "transfer", "hosts", "route53",
    "azure", "clouddns", "k8s_external", "kubernetes", "file", "auto", "secondary", "etcd", "loop", "forward",
    "grpc", "erratic", "whoami", "on", "sign", "view", "nomad",
)  # fmt: skip

SETUP: dict[str, Callable[[Directive, Build], None]] = {
    "bind": bind.setup,
    "cache": cache.setup,
    "errors": errors.setup,
    "forward": forward.setup,
    "health": health.setup,
    "kubernetes": kubernetes.setup,
    "loadbalance": loadbalance.setup,
    "log": log.setup,
    "loop": loop.setup,
    "prometheus": prometheus.setup,
    "ready": ready.setup,
    "reload": reload.setup,
}

BEFORE_KUBERNETES = frozenset({"log"})
"""Plugins that must see a query before the answer table may answer it."""


def set_up(build: Build) -> None:
    """Set up every plugin of a block, in ORDER. Raises CorefileError."""
    known = {name: at for at, name in enumerate(ORDER)}
    for directive in build.block.directives:
        if directive.name not in known:
            raise directive.wrong(f"Unknown directive '{directive.name}'")
        if directive.name not in SETUP:
            raise directive.wrong(f"plugin '{directive.name}' is not built yet; take it out of this Corefile")
    for directive in sorted(build.block.directives, key=lambda one: known[one.name]):
        SETUP[directive.name](directive, build)
