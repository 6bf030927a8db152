"""`--live`: one packet is sent as asked, and the kernel says where it went. Blocking; needs root.

From the node it is a real connection attempt. From a pod or from outside it comes out of a TUN device of ours with
the client's source address, so rules see it as they would the client's; what the endpoint answers goes to the real
client, which never asked and resets it. Everything that is set up for it is removed again.
"""

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator

from kubeproxy.kernel.conntrack import Conntrack
from kubeproxy.kernel.conntrack_messages import seen_source
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.first_packets import first_packet, payload
from kubeproxy.kernel.iptables import Iptables
from kubeproxy.kernel.netlink_messages import PROTOCOL_NUMBER
from kubeproxy.kernel.paths import TracedFlow
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.kernel.tracing import Tracer
from kubeproxy.kernel.tun import give_dummy_address, join_bridge, open_tap, open_tun, switch_on
from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.flows import FlowMatch
from kubeproxy.model.node import LocalKind
from kubeproxy.model.objects import Protocol
from kubeproxy.trace.answer import Answer, Asked
from kubeproxy.trace.compare import Seen, Translation
from kubeproxy.trace.packet import Origin

CONNECT_SECONDS = 1.5
PATH_SECONDS = 1.0
DEVICE = "kptrace"
"""What the name of our device begins with, unless pods are known by theirs."""
_HARDWARE = bytes.fromhex("0200006b7074")
"""A locally administered address for the sender of a frame."""
_ETHERTYPE = {Family.V4: b"\x08\x00", Family.V6: b"\x86\xdd"}
_SOCKETS = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}

Send = Callable[[], str]
"""Sends the packet; returns what its sender hears: connected, refused, silence, or "" when nobody listens."""


def observe(answer: Answer, tables: Iptables, sysctls: Sysctls, conntrack: Conntrack) -> Seen:
    """Send the packet that was judged and return what became of it. Raises KernelError, OSError."""
    packet = answer.packet
    family = family_of(packet.destination)
    protocol = Protocol(packet.protocol)
    with contextlib.ExitStack() as stack:
        if packet.origin == Origin.NODE:
            source_port, send = stack.enter_context(_from_here(packet, protocol))
        else:
            source_port, send = stack.enter_context(_from_the_wire(answer, protocol, sysctls))
        flow = TracedFlow(
            protocol=protocol,
            source=packet.source,
            source_port=source_port,
            destination=packet.destination,
            port=packet.port,
        )
        tracer = stack.enter_context(Tracer(tables, sysctls, flow))
        heard = send()
        path = tracer.path(PATH_SECONDS)
        translation = _translation(conntrack, family, flow)
    return Seen(path=path, translation=translation, heard=heard)


def _translation(conntrack: Conntrack, family: Family, flow: TracedFlow) -> Translation | None:
    match = FlowMatch(
        protocol=flow.protocol,
        ports=frozenset((flow.port,)),
        source=flow.source,
        destination=flow.destination,
    )
    for each in conntrack.flows(match):
        if each.source_port == flow.source_port:
            return Translation(answerer=each.answerer, port=each.answerer_port, seen_as=seen_source(family, each))
    return None


@contextlib.contextmanager
def _from_here(packet: Asked, protocol: Protocol) -> Iterator[tuple[int, Send]]:
    """Send as a process of this node does."""
    family = _SOCKETS[family_of(packet.destination)]
    if protocol is Protocol.SCTP:
        # Few kernels have SCTP sockets; the first packet is what rules look at.
        with socket.socket(family, socket.SOCK_RAW, PROTOCOL_NUMBER[protocol]) as raw:
            port = _some_port()
            raw.bind((packet.source, 0))

            def send() -> str:
                body = payload(protocol, packet.source, port, packet.destination, packet.port)
                with contextlib.suppress(PermissionError):  # what a rule in OUTPUT answers
                    raw.sendto(body, (packet.destination, 0))
                return ""

            yield port, send
        return
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.bind((packet.source, 0))
        client.settimeout(CONNECT_SECONDS)

        def connect() -> str:
            try:
                client.connect((packet.destination, packet.port))
                if protocol is Protocol.UDP:
                    client.send(b"")
                    return ""
            except (ConnectionRefusedError, PermissionError):
                return "refused"
            except OSError:
                return "silence"
            return "connected"

        yield client.getsockname()[1], connect


@contextlib.contextmanager
def _from_the_wire(answer: Answer, protocol: Protocol, sysctls: Sysctls) -> Iterator[tuple[int, Send]]:
    """Let the packet come out of a device of ours: one that is named as pods' are, or behind their bridge."""
    packet = answer.packet
    is_pod = packet.origin == Origin.POD
    prefix = answer.pods_interface if is_pod and answer.pods_by == LocalKind.PREFIX.value else DEVICE
    bridge = answer.pods_interface if is_pod and answer.pods_by == LocalKind.INTERFACE.value else ""
    name = f"{prefix[:11]}{os.getpid() % 10000}"
    device = open_tap(name) if bridge else open_tun(name)
    try:
        frame = b""
        if bridge:
            frame = join_bridge(bridge, name) + _HARDWARE + _ETHERTYPE[family_of(packet.destination)]
        elif family_of(packet.destination) is Family.V4:
            # Strictness is the larger of two values; where it is on for all, ours is loose at best.
            strict = sysctls.read("net/ipv4/conf/all/rp_filter") not in ("", "0")
            sysctls.ensure(f"net/ipv4/conf/{name}/rp_filter", "2" if strict else "0")
            if strict:
                give_dummy_address(name)
        switch_on(name)
        port = _some_port()

        def send() -> str:
            data = first_packet(protocol, packet.source, port, packet.destination, packet.port)
            try:
                os.write(device, frame + data)
            except OSError as error:
                raise KernelError(f"TUN device {name}: {error.strerror}") from error
            return ""

        yield port, send
    finally:
        os.close(device)


def _some_port() -> int:
    return random.randrange(20000, 60000)
