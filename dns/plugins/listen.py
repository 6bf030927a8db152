"""Where a plugin's HTTP page is served: the `ADDRESS` argument that health, ready and prometheus share."""

from dns.corefile import Directive
from kubeproxy.model.addresses import canonical_ip, host_port


def http_address(directive: Directive, default: str) -> str:
    """Return `HOST:PORT` (HOST empty: every address), checked. Raises CorefileError."""
    if len(directive.args) > 1:
        raise directive.wrong(f"wrong argument count or unexpected line ending after '{directive.args[0]}'")
    text = directive.args[0] if directive.args else default
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise directive.wrong(f"address {text[:80]}: missing port in address")
    if host and host != "localhost" and canonical_ip(host) is None:
        raise directive.wrong(f"address {text[:80]}: '{host[:60]}' is no IP address")
    return host_port(host, port)
