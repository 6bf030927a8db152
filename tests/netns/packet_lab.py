"""A node with pods, a remote pod and two machines outside, as network namespaces, to ask where packets go.

    pod, be1, be2 ── node ── outside (192.168.56.200, .201)
                      │
                  be3 (a pod of another node)

A socket belongs to the namespace in which it was made, for ever: so a thread that has entered a namespace
makes the sockets, and everything else happens here, in one process without helpers.
"""

import contextlib
import ctypes
import itertools
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from kubeproxy.model.objects import Protocol

T = TypeVar("T")

NODE_IP = "192.168.56.11"
ALT_NODE_IP = "192.168.57.11"
OUTSIDE, BLOCKED = "192.168.56.200", "192.168.56.201"
PODS = {"pod": "10.244.0.2", "be1": "10.244.0.11", "be2": "10.244.0.12", "be3": "10.244.1.11"}
BACKENDS = ("be1", "be2", "be3")
PORTS = (80, 8080, 53, 5353)
CLONE_NEWNET = 0x40000000

_count = itertools.count()


class Seen(tuple[str, str, int]):
    """Who answered: backend, the client's address as it saw it, and the port it was reached on."""


class PacketLab:
    """The namespaces, their responders, and probes between them."""

    def __init__(self) -> None:
        self._prefix = f"kpt-{os.getpid()}-{next(_count)}-"
        self._stack = contextlib.ExitStack()
        self._inside: dict[str, ThreadPoolExecutor] = {}
        self._answered: dict[tuple[str, int], Seen] = {}
        self._stop = threading.Event()
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

    def close(self) -> None:
        """Remove everything."""
        self._stop.set()
        self._stack.close()

    def probe(self, source: str, protocol: Protocol, address: str, port: int, timeout: float = 2.0) -> Seen | str:
        """Connect; return who answered, or REFUSED or DROPPED."""
        bind = BLOCKED if source == "blocked" else ""
        who = {"blocked": "outside", "localhost": "node"}.get(source, source)
        if protocol is Protocol.SCTP:
            return self._probe_sctp(who, address, port, timeout)
        kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
        with self.run(who, lambda: socket.socket(socket.AF_INET, kind)) as client:
            client.settimeout(timeout)
            if bind:
                client.bind((bind, 0))
            try:
                client.connect((address, port))
                client.send(b"?")
                name, seen, reached = client.recv(200).decode().split()
            except (ConnectionRefusedError, PermissionError):
                # A UDP sender on the refusing node itself gets EPERM.
                return "REFUSED"
            except (TimeoutError, OSError):
                return "DROPPED"
            own = client.getsockname()[0]
        return Seen((name, "same" if seen == own else "masq", int(reached)))

    def _build(self) -> None:
        for who in ("node", "outside", *PODS):
            self._add_namespace(who)
        lines = []
        for i, pod in enumerate(PODS):
            lines += [f"link add v{i} netns {self.name('node')} type veth peer name eth0 netns {self.name(pod)}"]
        lines += [f"link add eth0 netns {self.name('node')} type veth peer name eth0 netns {self.name('outside')}"]
        _ip(lines)
        node = ["link set lo up", f"addr add {NODE_IP}/24 dev eth0", f"addr add {ALT_NODE_IP}/24 dev eth0"]
        node += ["link set eth0 up", f"route add default via {OUTSIDE}"]
        for i, (pod, ip) in enumerate(PODS.items()):
            node += [f"link set v{i} up", f"addr add 10.244.0.1/32 dev v{i}", f"route add {ip}/32 dev v{i}"]
            gateway = ["link set lo up", f"addr add {ip}/32 dev eth0", "link set eth0 up"]
            gateway += ["route add 10.244.0.1/32 dev eth0", "route add default via 10.244.0.1"]
            _ip(gateway, self.name(pod))
        _ip(node, self.name("node"))
        far = ["link set lo up", f"addr add {OUTSIDE}/24 dev eth0", f"addr add {BLOCKED}/24 dev eth0"]
        _ip([*far, "link set eth0 up", f"route add default via {NODE_IP}"], self.name("outside"))
        self.run("node", _route_packets)
        for who in (*BACKENDS, "node"):
            self._respond(who)

    def _add_namespace(self, who: str) -> None:
        name = self.name(who)
        _ip([f"netns add {name}"])
        self._stack.callback(_ip, [f"netns del {name}"])
        pool = ThreadPoolExecutor(1, initializer=_enter, initargs=(name,))
        self._stack.callback(pool.shutdown)
        self._inside[who] = pool

    def _respond(self, who: str) -> None:
        """Answer with our name, the client's address and our port, on every port, by TCP and UDP."""
        sockets: list[socket.socket] = []
        ports = (8088,) if who == "node" else PORTS
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sockets.append(self.run(who, lambda kind=kind: socket.socket(socket.AF_INET, kind)))
                sockets[-1].bind(("0.0.0.0", port))
                if kind == socket.SOCK_STREAM:
                    sockets[-1].listen(128)
        raw = self.run(who, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP))
        thread = threading.Thread(target=self._serve, args=(who, sockets, raw))
        thread.start()
        self._stack.callback(thread.join)

    def _serve(self, who: str, sockets: list[socket.socket], raw: socket.socket) -> None:
        while not self._stop.is_set():
            for ready in select.select([*sockets, raw], [], [], 0.05)[0]:
                if ready is raw:
                    packet, (client, _) = raw.recvfrom(2000)
                    (port,) = struct.unpack_from("!H", packet, (packet[0] & 15) * 4 + 2)
                    tag = int.from_bytes(packet[-4:], "big")
                    self._answered["sctp", tag] = Seen((who, client, port))
                    continue
                own = ready.getsockname()[1]
                with contextlib.suppress(OSError):
                    if ready.type == socket.SOCK_STREAM:
                        connection, (client, _) = ready.accept()
                        with connection:
                            connection.settimeout(1)
                            connection.recv(1)
                            connection.send(f"{who} {client} {own}".encode())
                    else:
                        _, address = ready.recvfrom(100)
                        ready.sendto(f"{who} {address[0]} {own}".encode(), address)
        for each in (*sockets, raw):
            each.close()

    def _probe_sctp(self, who: str, address: str, port: int, timeout: float) -> Seen | str:
        """Send an INIT by hand (this kernel has no SCTP sockets) and see where it comes out."""
        with self.run(who, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)) as client:
            client.connect((address, 0))
            own, tag = client.getsockname()[0], int.from_bytes(os.urandom(4), "big")
            client.send(_sctp_init(40000 + tag % 20000, port, tag))
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if ("sctp", tag) in self._answered:
                name, seen, reached = self._answered["sctp", tag]
                return Seen((name, "same" if seen == own else "masq", reached))
            time.sleep(0.005)
        return "DROPPED"


def _enter(name: str) -> None:
    with Path("/run/netns", name).open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {name}")


def _ip(lines: list[str], namespace: str = "") -> None:
    inside = ["-n", namespace] if namespace else []
    text = "\n".join(lines) + "\n"
    subprocess.run(["ip", *inside, "-batch", "-"], input=text, text=True, check=True, capture_output=True)


def _route_packets() -> None:
    values = {"ip_forward": 1, "conf/all/rp_filter": 0, "conf/default/rp_filter": 0}
    values |= {f"conf/v{i}/rp_filter": 0 for i in range(len(PODS))}
    # Redirects, and the limit on ICMP messages a peer, would swallow refusals that follow fast upon another.
    values |= {"conf/all/send_redirects": 0, "conf/eth0/send_redirects": 0, "icmp_ratelimit": 0}
    for name, value in values.items():
        Path("/proc/sys/net/ipv4", name).write_text(str(value))


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _sctp_init(source: int, port: int, tag: int) -> bytes:
    """Return an SCTP packet with one INIT chunk; its last word is the tag again, to know it by."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, tag or 1, 65536, 1, 1, tag)
    zero = struct.pack("!HHII", source, port, 0, 0) + chunk
    return struct.pack("!HHI", source, port, 0) + struct.pack("<I", _crc32c(zero)) + chunk


@contextlib.contextmanager
def packet_lab() -> Iterator[PacketLab]:
    """Build a lab and remove it at the end."""
    lab = PacketLab()
    try:
        yield lab
    finally:
        lab.close()
