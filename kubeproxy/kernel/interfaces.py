"""Links, addresses, routes, neighbours and VXLAN forwarding entries of the current network namespace.

`Interfaces` is the seam: values of `kubeproxy.kernel.links` in and out, effects as `Step`s. `Rtnetlink` is the
real one, over pyroute2; `fake_interfaces.FakeInterfaces` is a model with the kernel's rules. Every call blocks
and opens a socket of its own (1 ms), so callers are worker threads and threads need not agree on anything;
only `watch_changes` belongs to the event loop.
"""

import asyncio
import errno
import logging
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.links import (
    Address,
    Entry,
    Forwarding,
    Link,
    Neighbour,
    Route,
    Step,
    Verb,
    Vxlan,
    Wiring,
)

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)

_MAIN_TABLE = 254
_UNICAST = 1
_KERNEL_PROTOCOL = 2
_ONLINK = 0x4
_NUD_PERMANENT = 0x80
_NUD_NOARP = 0x40
_NTF_SELF = 0x2
_IFF_UP = 0x1
_BRIDGE_FAMILY = 7

_ABSENT = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL}
"""How the kernel says that there is nothing to delete."""

_CHANGE_GROUPS = 0x1 | 0x10 | 0x40
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE."""


class InterfaceError(KernelError):
    """The kernel refused a step or a question; the text says which and why."""


class LinkAbsent(InterfaceError):
    """There is no link of that name."""


class HostAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An IPv4 address as a host has it. ``settled``: permanent, and not on its way out."""

    link: str
    address: str
    prefix: int
    global_scope: bool
    settled: bool


class Interfaces(Protocol):
    """What may be asked of and done to the links of a network namespace. Blocking."""

    def read(self, names: Iterable[str]) -> Wiring:
        """Return those of the named links that exist, with their addresses, routes and permanent entries.

        Routes are those of the main table that lead out of these links and that the kernel did not make itself.
        """
        ...

    def apply(self, steps: Sequence[Step]) -> list[InterfaceError]:
        """Do every step in order and return what was refused; one failure does not stop the rest."""
        ...

    def host_addresses(self) -> list[HostAddress]:
        """Return every IPv4 address of the namespace in the kernel's order."""
        ...

    def route_to(self, address: str) -> Route | None:
        """Return the route that a packet to the address would take, or None when there is none."""
        ...

    def watch_changes(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call back on the running event loop after links, addresses or routes change; return what ends it.

        A wake-up, not a report: several changes may give one call, and one's own changes count.
        """
        ...


class Rtnetlink:
    """The real one."""

    def read(self, names: Iterable[str]) -> Wiring:
        """See `Interfaces.read`."""
        links: list[Link] = []
        entries: set[Entry] = set()
        with IPRoute(strict_check=True) as kernel:
            for name in names:
                message = _find(kernel, name)
                if message is None:
                    continue
                links.append(_link(kernel, message))
                index = message["index"]
                entries |= _addresses(kernel, name, index)
                entries |= _routes(kernel, name, index)
                entries |= _neighbours(kernel, name, index)
                if links[-1].vxlan is not None:
                    entries |= _forwardings(kernel, name, index)
        return Wiring(links=tuple(links), entries=frozenset(entries))

    def apply(self, steps: Sequence[Step]) -> list[InterfaceError]:
        """See `Interfaces.apply`."""
        refused = []
        with IPRoute() as kernel:
            for step in steps:
                try:
                    _do(kernel, step)
                except NetlinkError as error:
                    if step.verb is Verb.DELETE and error.code in _ABSENT:
                        continue
                    refused.append(InterfaceError(f"{step.verb} {step.item}: {error.args[1]}"))
                except InterfaceError as error:
                    if step.verb is Verb.PUT or not isinstance(error, LinkAbsent):
                        refused.append(error)
        return refused

    def host_addresses(self) -> list[HostAddress]:
        """See `Interfaces.host_addresses`."""
        with IPRoute() as kernel:
            names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in kernel.get_links()}
            return [
                HostAddress(
                    link=names[message["index"]],
                    address=message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"),
                    prefix=message["prefixlen"],
                    global_scope=message["scope"] == 0,
                    settled=bool(message["flags"] & 0x80) and not message["flags"] & 0x20,
                )
                for message in kernel.get_addr(family=socket.AF_INET)
                if message["index"] in names
            ]

    def route_to(self, address: str) -> Route | None:
        """See `Interfaces.route_to`."""
        with IPRoute() as kernel:
            try:
                answers = list(kernel.route("get", dst=address))
            except NetlinkError:
                return None
            index = answers[0].get_attr("RTA_OIF") if answers else None
            if index is None:
                return None
            name = next(iter(kernel.get_links(index))).get_attr("IFLA_IFNAME")
            gateway = answers[0].get_attr("RTA_GATEWAY") or ""
            return Route(destination=f"{address}/32", link=name, gateway=gateway)

    def watch_changes(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """See `Interfaces.watch_changes`."""
        listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        listener.bind((0, _CHANGE_GROUPS))
        loop = asyncio.get_running_loop()

        def drain() -> None:
            try:
                while listener.recv(65536):
                    pass
            except BlockingIOError:
                pass
            except OSError as error:
                # ENOBUFS: so much changed that the kernel dropped reports, which is a change as well.
                if error.errno != errno.ENOBUFS:
                    raise
            on_change()

        def end() -> None:
            loop.remove_reader(listener.fileno())
            listener.close()

        loop.add_reader(listener.fileno(), drain)
        return end


def is_link_name(text: str) -> bool:
    """Whether the kernel and every tool take the text as the name of a link."""
    return _NAME.fullmatch(text) is not None


def _find(kernel: Any, name: str) -> Any:
    try:
        return next(iter(kernel.link("get", ifname=name)), None)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise InterfaceError(f"link {name}: {error.args[1]}") from error


def _index(kernel: Any, name: str) -> int:
    message = _find(kernel, name)
    if message is None:
        raise LinkAbsent(f"link {name}: no such device")
    return int(message["index"])


def _link(kernel: Any, message: Any) -> Link:
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        mtu=message.get_attr("IFLA_MTU"),
        mac=message.get_attr("IFLA_ADDRESS") or "",
        up=bool(message["flags"] & _IFF_UP),
        vxlan=_vxlan(kernel, message),
    )


def _vxlan(kernel: Any, message: Any) -> Vxlan | None:
    info = message.get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") != "vxlan":
        return None
    data = info.get_attr("IFLA_INFO_DATA")
    parent = data.get_attr("IFLA_VXLAN_LINK")
    underlay = next(iter(kernel.get_links(parent))).get_attr("IFLA_IFNAME") if parent else ""
    return Vxlan(
        vni=data.get_attr("IFLA_VXLAN_ID"),
        port=data.get_attr("IFLA_VXLAN_PORT"),
        underlay=underlay,
        local=data.get_attr("IFLA_VXLAN_LOCAL") or "",
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
        gbp=data.get_attr("IFLA_VXLAN_GBP") is not None,
    )


def _addresses(kernel: Any, name: str, index: int) -> set[Entry]:
    return {
        Address(link=name, address=f"{message.get_attr('IFA_LOCAL')}/{message['prefixlen']}")
        for message in kernel.get_addr(index=index, family=socket.AF_INET)
    }


def _routes(kernel: Any, name: str, index: int) -> set[Entry]:
    found: set[Entry] = set()
    for message in kernel.get_routes(family=socket.AF_INET, oif=index, table=_MAIN_TABLE):
        if message["type"] != _UNICAST or message["proto"] == _KERNEL_PROTOCOL:
            continue
        found.add(
            Route(
                destination=f"{message.get_attr('RTA_DST') or '0.0.0.0'}/{message['dst_len']}",
                link=name,
                gateway=message.get_attr("RTA_GATEWAY") or "",
                onlink=bool(message["flags"] & _ONLINK),
                protocol=message["proto"],
            )
        )
    return found


def _neighbours(kernel: Any, name: str, index: int) -> set[Entry]:
    return {
        Neighbour(link=name, address=message.get_attr("NDA_DST"), mac=message.get_attr("NDA_LLADDR"))
        for message in kernel.get_neighbours(ifindex=index, family=socket.AF_INET)
        if message["state"] & _NUD_PERMANENT and message.get_attr("NDA_LLADDR")
    }


def _forwardings(kernel: Any, name: str, index: int) -> set[Entry]:
    return {
        Forwarding(link=name, mac=message.get_attr("NDA_LLADDR"), remote=message.get_attr("NDA_DST"))
        for message in kernel.get_neighbours(ifindex=index, family=_BRIDGE_FAMILY)
        if message["state"] & _NUD_PERMANENT and message.get_attr("NDA_DST")
    }


def _do(kernel: Any, step: Step) -> None:
    put = step.verb is Verb.PUT
    match step.item:
        case Link() as link:
            _put_link(kernel, link) if put else kernel.link("del", index=_index(kernel, link.name))
        case Address() as address:
            host, _, prefix = address.address.partition("/")
            index = _index(kernel, address.link)
            kernel.addr("replace" if put else "del", index=index, address=host, prefixlen=int(prefix))
        case Route() as route:
            kernel.route("replace" if put else "del", **_route_attributes(kernel, route))
        case Neighbour() as entry:
            attributes = {"dst": entry.address, "lladdr": entry.mac, "ifindex": _index(kernel, entry.link)}
            kernel.neigh("replace" if put else "del", state=_NUD_PERMANENT, **attributes)
        case Forwarding() as entry:
            attributes = {"dst": entry.remote, "lladdr": entry.mac, "ifindex": _index(kernel, entry.link)}
            state = _NUD_PERMANENT | _NUD_NOARP
            kernel.fdb("replace" if put else "del", flags=_NTF_SELF, state=state, **attributes)


def _route_attributes(kernel: Any, route: Route) -> dict[str, Any]:
    attributes: dict[str, Any] = {"dst": route.destination, "oif": _index(kernel, route.link)}
    if route.protocol:
        attributes["proto"] = route.protocol
    if route.gateway:
        attributes["gateway"] = route.gateway
    if route.onlink:
        attributes["flags"] = _ONLINK
    return attributes


def _put_link(kernel: Any, link: Link) -> None:
    message = _find(kernel, link.name)
    if message is None:
        _create_link(kernel, link)
        message = _find(kernel, link.name)
    index = message["index"]
    changes: dict[str, Any] = {}
    if message.get_attr("IFLA_MTU") != link.mtu:
        changes["mtu"] = link.mtu
    if link.mac and message.get_attr("IFLA_ADDRESS") != link.mac:
        changes["address"] = link.mac
    if bool(message["flags"] & _IFF_UP) != link.up:
        changes["state"] = "up" if link.up else "down"
    if changes:
        kernel.link("set", index=index, **changes)


def _create_link(kernel: Any, link: Link) -> None:
    if link.vxlan is None or not is_link_name(link.name):
        raise InterfaceError(f"link {link.name!r}: only VXLAN devices with a valid name are made here")
    vxlan = link.vxlan
    attributes: dict[str, Any] = {
        "vxlan_id": vxlan.vni,
        "vxlan_link": _index(kernel, vxlan.underlay),
        "vxlan_local": vxlan.local,
        "vxlan_port": vxlan.port,
        "vxlan_learning": int(vxlan.learning),
    }
    if vxlan.gbp:
        attributes["vxlan_gbp"] = True
    kernel.link("add", ifname=link.name, kind="vxlan", mtu=link.mtu, address=link.mac, **attributes)
    _ignore_router_advertisements(link.name)


def _ignore_router_advertisements(name: str) -> None:
    # The overlay is routed by us alone; a router advertisement from a pod must not change that.
    knob = Path("/proc/sys/net/ipv6/conf") / name / "accept_ra"
    try:
        knob.write_text("0")
    except FileNotFoundError:
        return  # IPv6 is off
    except OSError as error:
        log.warning(
            "%s: cannot be set to 0 (%s); the device may take IPv6 routes from advertisements", knob, error
        )
