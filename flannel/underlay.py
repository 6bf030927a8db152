"""Which interface carries the overlay: by name or address, by pattern, by what it reaches, or the default route's.

The order and the choice among an interface's addresses are flannel's (global before link-local, settled
before dynamic or deprecated ones).
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address

import msgspec

from flannel.overlay import Underlay
from kubeproxy.kernel.interfaces import HostAddress, Interfaces

ANYWHERE = "192.0.2.1"
"""An address of nobody (RFC 5737): only the default route leads there. Nothing is sent to it."""


class NoUnderlay(Exception):
    """No interface answers the description; the text says what was looked for."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the user said of the interface; the first list that is not empty decides."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    can_reach: str = ""
    public_ip: IPv4Address | None = None


def find_underlay(interfaces: Interfaces, wish: Wish) -> Underlay:
    """Find the interface. Blocking. Raises `NoUnderlay`."""
    addresses = interfaces.host_addresses()
    chosen = _choose(interfaces, wish, addresses)
    links = interfaces.read([chosen.link]).links
    if not links:
        raise NoUnderlay(f"interface {chosen.link} went away")
    address = IPv4Address(chosen.address)
    return Underlay(link=chosen.link, address=address, mtu=links[0].mtu, public_ip=wish.public_ip or address)


def _choose(interfaces: Interfaces, wish: Wish, addresses: Sequence[HostAddress]) -> HostAddress:
    if wish.names or wish.patterns:
        found = _first(_by_name(name, addresses) for name in wish.names)
        found = found or _first(_by_pattern(pattern, addresses) for pattern in wish.patterns)
        sought = ", ".join((*wish.names, *wish.patterns))
    else:
        sought = wish.can_reach or "the default route"
        route = interfaces.route_to(wish.can_reach or ANYWHERE)
        found = _best(route.link, addresses) if route is not None else None
    if found is None:
        raise NoUnderlay(f"no interface with an IPv4 address found for {sought}; name one with -iface")
    return found


def _first(found: Iterable[HostAddress | None]) -> HostAddress | None:
    return next((address for address in found if address is not None), None)


def _by_name(name: str, addresses: Sequence[HostAddress]) -> HostAddress | None:
    try:
        IPv4Address(name)
    except AddressValueError:
        return _best(name, addresses)
    return next((address for address in addresses if address.address == name), None)


def _by_pattern(pattern: str, addresses: Sequence[HostAddress]) -> HostAddress | None:
    # Addresses first, then names, as flannel does. Go's MatchString looks anywhere in the text.
    expression = re.compile(pattern)
    by_address = next((address for address in addresses if expression.search(address.address)), None)
    return by_address or _first(
        _best(entry.link, addresses) for entry in addresses if expression.search(entry.link)
    )


def _best(link: str, addresses: Sequence[HostAddress]) -> HostAddress | None:
    mine = [address for address in addresses if address.link == link]
    return min(mine, key=lambda address: (not address.global_scope, not address.settled), default=None)
