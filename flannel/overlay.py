"""From leases to what a node's kernel should hold, and from that to the steps that make it so. PURE.

Desired state depends on the leases alone, never on the path taken to them: `plan` goes from any state of the
kernel to any desired one, so a start over stale state, a vanished lease, a deleted device and an entry that
somebody flushed are all the same case. Only what is ours is touched: everything on the overlay's own devices,
and on the underlay only routes that carry our protocol number.

Cost of a lease, as in flannel: one route, and with VXLAN one neighbour and one forwarding entry.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network

import msgspec

from flannel.lease import Lease, LeaseError, decode_vtep
from flannel.netconf import NetConf
from kubeproxy.kernel.links import (
    Address,
    Entry,
    Forwarding,
    Link,
    Neighbour,
    Route,
    Step,
    Verb,
    Wiring,
    entry_key,
)

ROUTE_PROTOCOL = 241
"""Marks the routes that we write, so that on the underlay ours are told from the administrator's."""


class Underlay(msgspec.Struct, frozen=True, kw_only=True):
    """The interface that carries the overlay's packets; ``public_ip`` is what other nodes send to."""

    link: str
    address: IPv4Address
    mtu: int
    public_ip: IPv4Address


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What of the kernel's state is the overlay's."""

    network: IPv4Network
    devices: frozenset[str]
    underlay: str

    def links(self) -> tuple[str, ...]:
        """Return the names of every link that has to be read."""
        return (*sorted(self.devices), self.underlay)

    def owns(self, entry: Entry) -> bool:
        """Whether an entry that stands may be removed by us."""
        if entry.link in self.devices:
            in_network = isinstance(entry, Address) and IPv4Address(entry.address.split("/")[0]) in self.network
            return in_network or not isinstance(entry, Address)
        return isinstance(entry, Route) and entry.link == self.underlay and entry.protocol == ROUTE_PROTOCOL


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The leases of other nodes that may be used, and why the others may not."""

    usable: tuple[Lease, ...] = ()
    refused: frozenset[str] = frozenset()


def usable_peers(netconf: NetConf, own: Lease, backend_type: str, leases: Iterable[Lease]) -> Peers:
    """Sort out leases that would hijack addresses or belong to another backend.

    A lease is a claim by another node. It may not reach out of the pod network nor into our own subnet, and
    of two claims on one subnet or MAC the first key wins.
    """
    usable: dict[IPv4Network, Lease] = {}
    macs: set[str] = set()
    refused = set()
    for lease in sorted(leases, key=lambda lease: lease.key):
        problem = _problem(netconf, own, backend_type, lease)
        if not problem and lease.subnet in usable:
            problem = f"is also leased as {usable[lease.subnet].key}"
        if not problem and backend_type == "vxlan":
            mac = decode_vtep(lease.attrs.backend_data).mac
            problem = f"has the VtepMAC {mac} of another node" if mac in macs else ""
            macs.add(mac)
        if problem:
            refused.add(f"subnet {lease.subnet} of node {lease.attrs.public_ip} {problem}")
        else:
            usable[lease.subnet] = lease
    return Peers(usable=tuple(usable.values()), refused=frozenset(refused))


def _problem(netconf: NetConf, own: Lease, backend_type: str, lease: Lease) -> str:
    if lease.attrs.public_ip == own.attrs.public_ip:
        return "has our own public address"
    if not lease.subnet.subnet_of(netconf.network):
        return f"is not inside the Network {netconf.network}"
    if lease.subnet.overlaps(own.subnet):
        return f"overlaps our own subnet {own.subnet}"
    # flannel's udp backend writes no type and takes every lease, so only a typed backend is choosy.
    if backend_type and lease.attrs.backend_type != backend_type:
        return f"is of backend type {lease.attrs.backend_type[:32]!r}, not {backend_type!r}"
    if backend_type == "vxlan":
        try:
            decode_vtep(lease.attrs.backend_data)
        except LeaseError as error:
            return f"is unusable: {error}"
    return ""


def vxlan_wiring(
    own: Lease, peers: Collection[Lease], device: Link, underlay: Underlay, direct: frozenset[IPv4Address]
) -> Wiring:
    """Return the device, and for each lease its neighbour, forwarding entry and on-link route.

    A lease whose node is in ``direct`` is on our own network segment: a plain route to it is enough.
    """
    entries: set[Entry] = {Address(link=device.name, address=f"{own.subnet.network_address}/32")}
    for lease in peers:
        if lease.attrs.public_ip in direct:
            entries.add(_gateway_route(lease, underlay))
            continue
        mac = decode_vtep(lease.attrs.backend_data).mac
        gateway = str(lease.subnet.network_address)
        entries.add(Neighbour(link=device.name, address=gateway, mac=mac))
        entries.add(Forwarding(link=device.name, mac=mac, remote=str(lease.attrs.public_ip)))
        entries.add(
            Route(
                destination=str(lease.subnet),
                link=device.name,
                gateway=gateway,
                onlink=True,
                protocol=ROUTE_PROTOCOL,
            )
        )
    return Wiring(links=(device,), entries=frozenset(entries))


def udp_wiring(own: Lease, network: IPv4Network, device: Link) -> Wiring:
    """Return the TUN's address and the one route that leads the whole pod network into it."""
    address = Address(link=device.name, address=f"{own.subnet.network_address}/32")
    route = Route(destination=str(network), link=device.name, protocol=ROUTE_PROTOCOL)
    return Wiring(links=(device,), entries=frozenset({address, route}))


def host_gateway_wiring(peers: Collection[Lease], underlay: Underlay) -> Wiring:
    """Return one route for each lease, by way of its node."""
    return Wiring(entries=frozenset(_gateway_route(lease, underlay) for lease in peers))


def _gateway_route(lease: Lease, underlay: Underlay) -> Route:
    gateway = str(lease.attrs.public_ip)
    return Route(destination=str(lease.subnet), link=underlay.link, gateway=gateway, protocol=ROUTE_PROTOCOL)


def plan(desired: Wiring, observed: Wiring, scope: Scope) -> tuple[Step, ...]:
    """Return the steps from what stands to what should; none when they agree.

    New addresses come before old ones go (the kernel drops a link's routes with its last address), and what
    a route needs comes before the route.
    """
    steps, missing = _link_steps(desired, observed)
    removed = {step.item.name for step in steps if step.verb is Verb.DELETE and isinstance(step.item, Link)}
    changed = {step.item.name for step in steps if step.verb is Verb.PUT and isinstance(step.item, Link)}
    standing = {entry for entry in observed.entries if scope.owns(entry) and entry.link not in removed}
    # A new MAC flushes the link's neighbours: they are written again, and a stale one is still deleted.
    doubtful = {entry for entry in standing if isinstance(entry, Neighbour) and entry.link in changed}
    wanted = {entry for entry in desired.entries if entry.link not in missing}
    keys = {entry_key(entry) for entry in wanted}
    puts = sorted(wanted - (standing - doubtful), key=_put_order)
    deletes = sorted((entry for entry in standing if entry_key(entry) not in keys), key=_delete_order)
    steps += [Step(verb=Verb.PUT, item=entry) for entry in puts if isinstance(entry, Address)]
    steps += [Step(verb=Verb.DELETE, item=entry) for entry in deletes]
    steps += [Step(verb=Verb.PUT, item=entry) for entry in puts if not isinstance(entry, Address)]
    return tuple(steps)


def _link_steps(desired: Wiring, observed: Wiring) -> tuple[list[Step], set[str]]:
    """Return the steps for links, and the names of those that only their forwarder can make (a TUN)."""
    standing = {link.name: link for link in observed.links}
    steps = []
    missing = set()
    for link in desired.links:
        now = standing.get(link.name)
        if now is not None and now.vxlan != link.vxlan:
            steps.append(Step(verb=Verb.DELETE, item=now))
            now = None
        if now is None and link.vxlan is None:
            missing.add(link.name)
        elif now is None or (now.mtu, now.up) != (link.mtu, link.up) or (link.mac and now.mac != link.mac):
            steps.append(Step(verb=Verb.PUT, item=link))
    return steps, missing


_DELETE_ORDER = (Route, Neighbour, Forwarding, Address)
_PUT_ORDER = (Address, Neighbour, Forwarding, Route)


def _delete_order(entry: Entry) -> tuple[int, tuple[str, ...]]:
    return _DELETE_ORDER.index(type(entry)), entry_key(entry)


def _put_order(entry: Entry) -> tuple[int, tuple[str, ...]]:
    return _PUT_ORDER.index(type(entry)), entry_key(entry)
