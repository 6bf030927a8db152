"""Packets to and around a World's addresses: what `trace` predicts of each, and what the lab's kernel does."""

from collections.abc import Iterator
from itertools import product
from zlib import crc32

from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.objects import Protocol, Record
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.trace.packet import Origin, Packet
from kubeproxy.trace.table import Table
from kubeproxy.trace.verdict import Destination, Outcome, Verdict, judge
from tests.scenarios.addresses import (
    ALT,
    GATEWAY,
    HOST_PORT,
    HOSTS,
    LOOPBACK,
    NODE,
    PORTS,
    TUNNEL,
    V4,
    name_of,
    virtual,
)
from tests.scenarios.lab import Lab
from tests.scenarios.probes import DROPPED, REFUSED, Answer, probe

CLIENTS = ("pod", "be1", "bridged", "farpod", "be3", "node", "outside", "blocked", "altout")
PODS = ("pod", "be1", "be2", "bridged", "farpod", "be3", "be4")
NODE_HOSTS = (NODE, ALT, GATEWAY, LOOPBACK)
LOCAL_ADDRESSES = frozenset(host.address(family) for host in (*NODE_HOSTS, TUNNEL) for family in Family)
SILENCE_SECONDS, ANSWER_SECONDS = 0.4, 4.0
SHARES = {Outcome.FORWARD: 0.5, Outcome.REFUSED: 0.25, Outcome.DROPPED: 0.2, Outcome.NOT_OURS: 0.15}
"""How many of the packets may end so: most addresses of most Services have little to tell."""
SLOW_SHARE = 200
"""One in so many is asked of what the node itself sends by TCP and nobody answers: it hears of a refusal only when
TCP has sent again, after a second."""


class Question(Record, frozen=True, kw_only=True):
    """A packet, who sends it, and the model's answer."""

    client: str
    packet: Packet
    verdict: Verdict

    def __str__(self) -> str:
        """Print the packet, and why the model says what it says."""
        steps = "".join(f"\n    {step.text}" for step in self.verdict.steps)
        return f"{self.client} → {self.packet.where_to}: {self.verdict.outcome}{steps}"


def questions(world: World, settings: Settings, family: Family, seed: int, count: int) -> list[Question]:
    """Draw packets. Which are drawn depends on the seed and the packet, not on what else there is in the World."""
    table = Table(world, settings, family, local_addresses=LOCAL_ADDRESSES)
    drawn = sorted(_packets(world, family), key=lambda each: crc32(f"{seed} {each}".encode()))
    left = {outcome: int(share * count) for outcome, share in SHARES.items()}
    found = []
    for client, packet in drawn:
        question = Question(client=client, packet=packet, verdict=judge(table, packet))
        if left[question.verdict.outcome] and _is_askable(question, seed):
            left[question.verdict.outcome] -= 1
            found.append(question)
    return found


def _packets(world: World, family: Family) -> set[tuple[str, Packet]]:
    return {
        (client, packet)
        for client, place in product(CLIENTS, _destinations(world, family))
        if (packet := _packet(client, family, *place)) is not None
    }


def _destinations(world: World, family: Family) -> Iterator[tuple[str, Protocol, int]]:
    nodes = [host.address(family) for host in NODE_HOSTS]
    for service in world.services.values():
        addresses = [*service.cluster_ips, *service.external_ips, *service.load_balancer_ips]
        own = [ip for ip in addresses if family_of(ip) is family]
        for port in service.ports:
            yield from ((ip, port.protocol, port.port) for ip in own)
            yield from ((ip, port.protocol, port.port + 1) for ip in own[:1])
            if port.node_port:
                yield from ((ip, port.protocol, port.node_port) for ip in nodes)
                yield nodes[0], port.protocol, port.node_port + 1
        yield from ((ip, Protocol.UDP, 80) for ip in own)
    # Nobody has these; pods and the node answer for themselves.
    for way, number in product(("cluster", "external", "balancer"), (1, 9)):
        yield virtual(way, family, number, 7), Protocol.TCP, 80
    yield from ((HOSTS[host].address(family), Protocol.TCP, 80) for host in ("be1", "be3"))
    yield from ((ip, Protocol.TCP, HOST_PORT) for ip in nodes)


def _packet(client: str, family: Family, address: str, protocol: Protocol, port: int) -> Packet | None:
    host, target = HOSTS[client], name_of(address)
    own = host.namespace == "node"
    if address == LOOPBACK.address(family) and not own:
        return None  # never leaves the client
    if target in HOSTS and HOSTS[target].namespace == host.namespace and not own:
        return None
    local = own and address in LOCAL_ADDRESSES
    if own and (target in PODS or address == GATEWAY.address(family)):
        return (
            None  # which of its addresses the node takes is the routes' business; masquerading takes the gateway's
        )
    return Packet(
        origin=Origin.NODE if own else Origin.POD if client in PODS else Origin.OUTSIDE,
        source=address if local else (NODE if own else host).address(family),
        destination=address,
        port=port,
        protocol=protocol,
        interface=host.interface,
    )


def _is_askable(question: Question, seed: int) -> bool:
    verdict, packet, host = question.verdict, question.packet, HOSTS[question.client]
    if verdict.outcome is Outcome.FORWARD:
        # Endpoints beside a remote client answer it directly, past this node: their own node's proxy serves it.
        beside = (each for each in verdict.destinations if HOSTS[name_of(each.target.address)].namespace == "far")
        return host.namespace != "far" or all(each.masquerade for each in beside)
    if verdict.outcome is Outcome.NOT_OURS:
        return _plain(packet) is not None
    slow = packet.origin is Origin.NODE and packet.protocol is Protocol.TCP
    return not slow or crc32(f"{seed} {packet} slow".encode()) % SLOW_SHARE == 0


def _plain(packet: Packet) -> Answer | str | None:
    """Return what happens to a packet that nobody touches, None when the lab cannot tell."""
    target = name_of(packet.destination)
    if target == "node":
        listens = packet.port == HOST_PORT or packet.protocol is Protocol.SCTP
        if packet.destination in (GATEWAY.address(V4), GATEWAY.address(Family.V6)):
            return None  # a pod's answer from there has another address in IPv6
    elif target in ("wan", "be1", "be2", "be3", "be4"):
        listens = packet.port in PORTS or packet.protocol is Protocol.SCTP
    else:
        return None
    if listens:
        return Answer(server=target, client="same", port=packet.port)
    return REFUSED if packet.protocol is Protocol.TCP else None  # other kernels ration what they say by ICMP


def ask(lab: Lab, question: Question) -> str:
    """Send the packet; return how the answer differs from the prediction, "" when it does not."""
    packet, outcome = question.packet, question.verdict.outcome
    patience = SILENCE_SECONDS if outcome is Outcome.DROPPED else ANSWER_SECONDS
    if outcome is Outcome.DROPPED and packet.origin is Origin.NODE and packet.protocol is Protocol.TCP:
        patience += 1
    found = probe(lab, question.client, packet.protocol, packet.destination, packet.port, patience)
    expected = _expected(question)
    return "" if found in expected else f"{question}\n  but the kernel: {found}"


def _expected(question: Question) -> set[Answer | str]:
    match question.verdict.outcome:
        case Outcome.REFUSED:
            return {REFUSED}
        case Outcome.DROPPED:
            return {DROPPED}
        case Outcome.FORWARD:
            return {answer for each in question.verdict.destinations for answer in _answers(question, each)}
        case _:
            plain = _plain(question.packet)
            return set() if plain is None else {plain}


def _answers(question: Question, destination: Destination) -> Iterator[Answer]:
    server, port = name_of(destination.target.address), destination.target.port
    # The node that masquerades what it sends itself may take the address that it had.
    itself = question.packet.origin is Origin.NODE and server == "node"
    seen = ("masq", "same") if itself else ("masq",) if destination.masquerade else ("same",)
    yield from (Answer(server=server, client=client, port=port) for client in seen)
