"""`bind ADDRESS...`: listen there only, instead of on every address."""

from dns.chain import Build
from dns.corefile import Directive
from kubeproxy.model.addresses import canonical_ip


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    if not directive.args:
        raise directive.wrong("at least one address is expected")
    if directive.block:
        raise directive.block[0].wrong(f"option '{directive.block[0].name}' of bind is not built yet")
    for text in directive.args:
        address = canonical_ip(text)
        if address is None:
            raise directive.wrong(f"not a valid IP address: {text[:80]} (interface names are not built yet)")
        build.binds.append(address)
