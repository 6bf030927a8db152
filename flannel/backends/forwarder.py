"""The worker process of the udp backend: packets between the TUN device and one UDP socket, one at a time.

Wire format, as flannel's: the UDP payload is the inner IPv4 packet, nothing else, port to port. A process of its
own because a busy loop in the daemon's interpreter would starve its event loop. Control is one line of JSON
from the daemon for each new routing table, and one line back when the device is up and when drops were counted.

Who may send: flannel takes any datagram from anybody. Here the outer source must be a node with a lease, and an
inner source inside the pod network must be of that node's subnet; addresses outside the pod network (a node's
own, unmasqueraded) are taken from any node. UDP sources can be forged on an open network all the same: there
wireguard is the answer.
"""

import argparse
import errno
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

import msgspec

from flannel.backends.packets import (
    TIME_EXCEEDED,
    UNREACHABLE,
    Hop,
    RouteTable,
    count_down,
    icmp_error,
    is_ipv4,
)
from kubeproxy.kernel.tun import TunError, open_tun
from kubeproxy.kernel.worker import CONTROL_DESCRIPTOR_ARGUMENT

BATCH = 16
"""Packets taken from one side before the other gets its turn."""

TURNS = 64
"""Turns before control and time are looked at, however busy it is."""

LARGEST_PACKET = 65536
SOCKET_BUFFER_BYTES = 8 << 20
REPORT_SECONDS = 5.0
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
DEVICE_GONE = {errno.EBADF, errno.EBADFD, errno.ENODEV}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The line from the daemon: the pod network, our address in it, and each subnet's node."""

    network: str
    address: str
    port: int
    routes: tuple[tuple[str, str], ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The line to the daemon: packets dropped since the start, by reason."""

    dropped: dict[str, int] = {}


class Forwarder:
    """The two directions. Everything the kernel does comes in as functions, so that tests feed it packets."""

    def __init__(
        self, write: Callable[[bytes | bytearray], object], send: Callable[[bytes | bytearray, Hop], object]
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self._write = write
        self._send = send
        self._table = RouteTable(())
        self._network = IPv4Network("0.0.0.0/0")
        self._address = IPv4Address("0.0.0.0")

    def load(self, table: Table) -> None:
        """Forward by this table from now on."""
        self._network = IPv4Network(table.network)
        self._address = IPv4Address(table.address)
        self._table = RouteTable((IPv4Network(subnet), (node, table.port)) for subnet, node in table.routes)

    def outbound(self, packet: bytearray) -> None:
        """Take a packet from the TUN device to its node."""
        if not is_ipv4(packet):
            return  # the kernel's own IPv6 solicitations: nothing that anybody sent
        destination = bytes(packet[16:20])
        hops = self._table.hops
        hop = hops[destination] if destination in hops else self._table.find(destination)
        if hop is None:
            self._refuse(packet, UNREACHABLE, "no route")
        elif not count_down(packet):
            self._refuse(packet, TIME_EXCEEDED, "TTL exceeded")
        else:
            try:
                self._send(packet, hop)
            except BlockingIOError:
                self.dropped["socket buffer full"] += 1
            except OSError as error:
                self.dropped[f"send: {error.strerror}"] += 1

    def inbound(self, packet: bytearray, sender: str) -> None:
        """Take a packet from another node to the TUN device."""
        if not is_ipv4(packet):
            self.dropped["not IPv4"] += 1
            return
        source = bytes(packet[12:16])
        hops = self._table.hops
        hop = hops[source] if source in hops else self._table.find(source)
        if (hop is None or hop[0] != sender) and not self._may_send(source, sender):
            self.dropped["sender does not own the source"] += 1
        elif not count_down(packet):
            self.dropped["TTL exceeded"] += 1
        else:
            self._to_device(packet)

    def _may_send(self, source: bytes, sender: str) -> bool:
        return sender in self._table.nodes and IPv4Address(source) not in self._network

    def _refuse(self, packet: bytearray, kind: tuple[int, int], reason: str) -> None:
        self.dropped[reason] += 1
        answer = icmp_error(kind, packet, self._address)
        if answer is not None:
            self._to_device(answer)

    def _to_device(self, packet: bytes | bytearray) -> None:
        try:
            self._write(packet)
        except OSError as error:
            if error.errno in DEVICE_GONE:
                raise
            self.dropped[f"TUN: {error.strerror}"] += 1


class Loop:
    """The descriptors, and who may go next."""

    def __init__(self, tun: int, tunnel: socket.socket, control: socket.socket) -> None:
        self._tun = tun
        self._tunnel = tunnel
        self._control = control
        self._lines = b""
        self._forwarder = Forwarder(lambda packet: os.write(tun, packet), tunnel.sendto)
        self._reported: Counter[str] = Counter()
        self._poll = select.epoll()
        for descriptor in (tun, tunnel.fileno(), control.fileno()):
            self._poll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        """Forward until the daemon closes the control socket. Raises OSError when the device is gone."""
        self._report()
        due = time.monotonic() + REPORT_SECONDS
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll(REPORT_SECONDS)}
            if self._control.fileno() in ready and not self._read_control():
                return
            for _ in range(TURNS):
                outbound, inbound = self._take_outbound(), self._take_inbound()
                if not (outbound or inbound):
                    break
            if time.monotonic() >= due:
                due = time.monotonic() + REPORT_SECONDS
                if self._forwarder.dropped != self._reported:
                    self._report()

    def _take_outbound(self) -> bool:
        read, tun, forward = os.read, self._tun, self._forwarder.outbound
        try:
            for _ in range(BATCH):
                forward(bytearray(read(tun, LARGEST_PACKET)))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: the device is down, which the daemon repairs
                raise
            time.sleep(0.05)
            return False
        return True

    def _take_inbound(self) -> bool:
        receive, forward = self._tunnel.recvfrom, self._forwarder.inbound
        try:
            for _ in range(BATCH):
                data, sender = receive(LARGEST_PACKET)
                forward(bytearray(data), sender[0])
        except BlockingIOError:
            return False
        return True

    def _read_control(self) -> bool:
        data = self._control.recv(1 << 20)
        *lines, self._lines = (self._lines + data).split(b"\n")
        if lines:
            self._forwarder.load(msgspec.json.decode(lines[-1], type=Table))  # only the newest counts
        return bool(data)

    def _report(self) -> None:
        self._reported = Counter(self._forwarder.dropped)
        self._control.sendall(msgspec.json.encode(Report(dropped=dict(self._reported))) + b"\n")


def _tunnel_socket(address: str, port: int) -> socket.socket:
    tunnel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            tunnel.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER_BYTES)
        except PermissionError:
            tunnel.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER_BYTES)
    tunnel.bind((address, port))
    tunnel.setblocking(False)
    return tunnel


def main(argv: Sequence[str]) -> int:
    """Run the worker: exit status 0 when the daemon is done, 1 when it cannot go on."""
    parser = argparse.ArgumentParser(prog="flanneld udp forwarder")
    parser.add_argument(CONTROL_DESCRIPTOR_ARGUMENT, type=int, required=True, dest="control")
    parser.add_argument("device")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    options = parser.parse_args(argv)
    try:
        tunnel = _tunnel_socket(options.address, options.port)
        Loop(open_tun(options.device), tunnel, socket.socket(fileno=options.control)).run()
    except KeyboardInterrupt:
        return 0  # ctrl-C goes to the whole process group; the daemon says what is to be said
    except (OSError, TunError) as error:
        print(f"flanneld udp forwarder: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
