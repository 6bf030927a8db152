"""A node with pods, another node's pods, clients outside and the world beyond, as network namespaces.

    pod, be1, be2 ──┐            ┌── outside, blocked, altout, client0…
    bridged ─ cbr0 ─┤─── node ───┼── far: farpod, be3, be4 (pods of another node)
                                 └── wan: the default route; answers for every address that nobody has

A socket belongs to the namespace in which it was made, for ever: so a thread that has entered a namespace makes
the sockets, and everything else happens here, in one process without helpers. Both IP families are set up; a
packet that the node leaves alone is not lost but answered by `wan`, so "ignored" is seen, not guessed.
"""

import contextlib
import itertools
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from kubeproxy.kernel.netns import CLONE_NEWNET, enter
from kubeproxy.model.addresses import Family
from tests.scenarios import addresses
from tests.scenarios.addresses import (
    ALT,
    BRIDGE,
    CROWD_NETWORK,
    GATEWAY,
    HOST_PORT,
    HOSTS,
    NODE,
    POD_PREFIX,
    PORTS,
    TUNNEL,
    V4,
    V6,
    WAY_OUT,
    Host,
)
from tests.scenarios.responders import Responders

T = TypeVar("T")

NAMESPACES = ("node", "outside", "far", "wan", "pod", "be1", "be2", "bridged")
LOCAL_PODS = ("pod", "be1", "be2", "bridged")
LINK_GATEWAY = "fe80::1"

_count = itertools.count()


class Lab:
    """The namespaces and their responders. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._prefix = f"kpt-{os.getpid()}-{next(_count)}-"
        self._stack = contextlib.ExitStack()
        self._inside: dict[str, ThreadPoolExecutor] = {}
        self._held: set[tuple[str, str, int]] = set()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def name(self, who: str) -> str:
        """Return a namespace's name for `ip netns`."""
        return self._prefix + who

    def run(self, who: str, function: Callable[[], T]) -> T:
        """Call a function on a thread that lives in a namespace."""
        return self._inside[who].submit(function).result()

    def socket(self, who: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a new socket in a namespace."""
        return self.run(who, lambda: socket.socket(family, kind, protocol))

    def listen(self, who: str, ports: tuple[int, ...], address: str = "") -> None:
        """Have a plain process answer in a namespace, as long as the lab stands; ports that one has are left."""
        free = tuple(port for port in ports if not {(who, "", port), (who, address, port)} & self._held)
        self._held |= {(who, address, port) for port in free}
        self._responders.listen(lambda *kind: self.socket(who, *kind), free, address)

    def close(self) -> None:
        """Remove everything."""
        self._stack.close()

    def _build(self) -> None:
        for who in NAMESPACES:
            self._add_namespace(who)
            self.run(who, _no_duplicate_detection)
        _ip(list(self._links()))
        for who, lines in (
            ("node", _node()),
            ("outside", _outside()),
            ("far", _far()),
            ("wan", _wan()),
            *((pod, _pod(HOSTS[pod])) for pod in LOCAL_PODS),
        ):
            _ip(["link set lo up", *lines], self.name(who))
        self.run("node", _route_packets)
        self.run("outside", lambda: _sysctls({"ipv4/conf/all/route_localnet": 1}))
        self._responders = Responders()
        self._stack.callback(self._responders.close)
        for who in ("be1", "be2", "far", "wan"):
            self.listen(who, PORTS)
        self.listen("node", (HOST_PORT,))
        for who in ("be1", "be2", "far", "wan", "node"):
            self._responders.listen_sctp(lambda *kind, who=who: self.socket(who, *kind))

    def _links(self) -> Iterator[str]:
        def pair(near: str, who: str) -> str:
            return f"link add {near} netns {self.name('node')} type veth peer name eth0 netns {self.name(who)}"

        yield from (pair(f"{POD_PREFIX}{pod}", pod) for pod in LOCAL_PODS)
        yield from (pair("eth0", "outside"), pair("far0", "far"), pair("wan0", "wan"))

    def _add_namespace(self, who: str) -> None:
        name = self.name(who)
        _ip([f"netns add {name}"])
        self._stack.callback(_ip, [f"netns del {name}"])
        pool = ThreadPoolExecutor(1, initializer=enter, initargs=(Path("/run/netns", name), CLONE_NEWNET))
        self._stack.callback(pool.shutdown)
        self._inside[who] = pool


def _add(host: Host, device: str) -> list[str]:
    return [f"addr add {host.v4}/32 dev {device}", f"addr add {host.v6}/128 dev {device} nodad"]


def _node() -> Iterator[str]:
    yield f"link add {BRIDGE} type bridge"
    yield f"link set {POD_PREFIX}bridged master {BRIDGE}"
    for device in ("eth0", "far0", "wan0", BRIDGE, *(POD_PREFIX + pod for pod in LOCAL_PODS)):
        yield f"link set {device} up"
    for host in (ALT, NODE):  # what IPv6 is given last it takes first
        yield f"addr add {host.v4}/24 dev eth0"
        yield f"addr add {host.v6}/64 dev eth0 nodad"
    for pod in LOCAL_PODS:
        device = HOSTS[pod].interface
        yield from _add(GATEWAY, device)
        yield f"addr add {LINK_GATEWAY}/64 dev {device} nodad"
        yield from (f"route add {HOSTS[pod].address(family)} dev {device}" for family in Family)
    yield from _add(TUNNEL, "far0")
    yield from (f"addr add {LINK_GATEWAY}/64 dev {device} nodad" for device in ("far0", "wan0"))
    for pod in ("farpod", "be3", "be4"):
        yield from (f"route add {HOSTS[pod].address(family)} dev far0" for family in Family)
    yield f"route add {CROWD_NETWORK[V4]} via {HOSTS['be3'].v4} dev far0 onlink"
    yield f"route add {CROWD_NETWORK[V6]} via {LINK_PEER} dev far0"
    yield from _add(WAY_OUT, "wan0")
    yield f"route add default via {WAN_PEER} dev wan0 onlink src {NODE.v4}"
    yield f"route add default via {LINK_PEER} dev wan0 src {NODE.v6}"


WAN_PEER, LINK_PEER = "192.168.99.2", "fe80::2"


def _gateway() -> Iterator[str]:
    """Yield how pods are connected: one address each, everything else through the node."""
    yield f"route add {GATEWAY.v4}/32 dev eth0"
    yield f"route add default via {GATEWAY.v4}"
    yield f"route add default via {LINK_GATEWAY} dev eth0"


def _pod(host: Host) -> Iterator[str]:
    yield "link set eth0 up"
    yield from _add(host, "eth0")
    yield from _gateway()


def _far() -> Iterator[str]:
    yield "link set eth0 up"
    for name in ("farpod", "be3", "be4"):
        yield from _add(HOSTS[name], "eth0")
    yield f"addr add {LINK_PEER}/64 dev eth0 nodad"
    yield f"route add {TUNNEL.v4}/32 dev eth0"
    yield f"route add default via {TUNNEL.v4}"
    yield f"route add default via {LINK_GATEWAY} dev eth0"
    yield from (f"route add local {CROWD_NETWORK[family]} dev lo" for family in Family)


def _outside() -> Iterator[str]:
    yield "link set eth0 up"
    for host in HOSTS.values():
        if host.namespace == "outside":
            yield f"addr add {host.v4}/24 dev eth0"
            yield f"addr add {host.v6}/64 dev eth0 nodad"
    yield f"route add default via {NODE.v4}"
    yield f"route add default via {NODE.v6}"
    # Somebody who tries to reach what listens on the node's loopback.
    yield "addr del 127.0.0.1/8 dev lo"


def _wan() -> Iterator[str]:
    yield "link set eth0 up"
    yield f"addr add {WAN_PEER}/32 dev eth0"
    yield f"addr add {LINK_PEER}/64 dev eth0 nodad"
    yield f"route add default via {WAY_OUT.v4} dev eth0 onlink"
    yield f"route add default via {LINK_GATEWAY} dev eth0"
    for network in (*addresses.WORLD_BEYOND[V4], *addresses.WORLD_BEYOND[V6]):
        yield f"route add local {network} dev lo"


def _ip(lines: list[str], namespace: str = "") -> None:
    inside = ["-n", namespace] if namespace else []
    text = "\n".join(lines) + "\n"
    done = subprocess.run(["ip", *inside, "-batch", "-"], input=text, text=True, check=False, capture_output=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(inside)}: {done.stderr.strip()}\n{text}")


def _sysctls(values: dict[str, object]) -> None:
    for name, value in values.items():
        Path("/proc/sys/net", name).write_text(str(value))


def _no_duplicate_detection() -> None:
    _sysctls({f"ipv6/conf/{which}/accept_dad": 0 for which in ("all", "default")})


def _route_packets() -> None:
    devices = ("all", "default", "eth0", "far0", "wan0", BRIDGE, *(POD_PREFIX + pod for pod in LOCAL_PODS))
    _sysctls({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    # Redirects, and the limits on ICMP messages, would swallow refusals that follow fast upon another.
    _sysctls({f"ipv4/conf/{device}/{name}": 0 for device in devices for name in ("rp_filter", "send_redirects")})
    _sysctls(
        {"ipv4/icmp_ratelimit": 0, "ipv4/icmp_ratemask": 0, "ipv6/icmp/ratelimit": 0, "ipv6/icmp/ratemask": 200}
    )


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """Build a lab and remove it at the end."""
    built = Lab()
    try:
        yield built
    finally:
        built.close()
