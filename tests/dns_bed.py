"""A resolver without sockets: model objects in, packets in, packets out; dnslib reads what came out."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from dnslib import EDNS0, QTYPE, RR, DNSHeader, DNSQuestion, DNSRecord

from dns.chain import Build, Failure, Runtime
from dns.corefile import parse
from dns.dispatch import Dispatcher
from dns.message import Query, Reply, empty
from dns.metrics import Metrics
from dns.names import labels_of
from dns.plugins import set_up
from dns.rrtypes import Rcode
from kubeproxy.clock import ManualClock
from kubeproxy.model.objects import (
    Conditions,
    Endpoint,
    EndpointSlice,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
    SlicePort,
)

COREFILE = """.:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        OPTIONS
    }
}
"""


class FakeUpstream:
    """Stands where `forward` stands: zone-file lines by name and type; everything else is NXDOMAIN."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], list[str]] = {}
        self.truncate = False
        self.away = False
        self.asked: list[tuple[str, str]] = []

    async def serve(self, query: Query) -> Reply:
        if self.away:
            raise Failure("no upstream answers")
        if not printable(query.question):
            return empty(query, Rcode.NXDOMAIN, "forward")  # dnslib refuses such names, resolvers do not
        request = DNSRecord.parse(query.clean())
        name, kind = str(request.q.qname).lower(), request.q.qtype
        self.asked.append((name, QTYPE[kind]))
        reply = request.reply(aa=0)
        lines = self.zone.get((name, QTYPE[kind]), [])
        for line in lines:
            reply.add_answer(*RR.fromZone(line))
        if not lines:
            reply.header.rcode = 3
        reply.header.tc = int(self.truncate)
        return Reply(bytes(reply.pack()), "forward")


class Bed:
    """One server block with a kubernetes plugin whose cluster is given by hand."""

    def __init__(self, options: str = "", corefile: str = COREFILE) -> None:
        self.clock = ManualClock()
        self.upstream = FakeUpstream()
        self.metrics = Metrics()

        async def no_reload() -> None:
            return None

        runtime = Runtime(self.clock, self.metrics, "Corefile", no_reload)
        block = parse(corefile.replace("OPTIONS", options), file="Corefile", environment=os.environ)[0]
        self.build = Build(block, runtime)
        set_up(self.build)
        self.source = self.build.tasks[0].__self__  # type: ignore[attr-defined]
        self.zone = self.source.zone
        self.build.links.setdefault("forward", lambda following: self.upstream)
        self.dispatcher = Dispatcher({".": self.build}, 53, self.clock, self.metrics)

    def add(self, service: Service | None, *slices: EndpointSlice) -> None:
        owner = service or slices[0]
        name = service.name if service else slices[0].service
        self.zone.set_service((owner.namespace, name), service, slices)
        self.zone.touch(int(self.clock.wall()))

    def sync(self) -> None:
        """What happens when every informer has listed once."""
        self.source.mark_synced()

    def ask(self, name: str, kind: str = "A", **options: Any) -> DNSRecord:
        return DNSRecord.parse(self.ask_raw(question(name, kind, **options)))

    def ask_raw(self, packet: bytes, stream: bool = False) -> bytes:
        """Send a packet by both paths; where the table answers, the plugin chain must say the same."""
        fast = self.dispatcher.fast(packet, stream, False)
        slow = asyncio.run(self.dispatcher.serve(packet, stream, ("192.0.2.9", 4711)))
        assert slow is not None
        if fast is not None:
            assert sections(DNSRecord.parse(fast)) == sections(DNSRecord.parse(slow))
        return fast if fast is not None else slow


def printable(packet_question: bytes) -> bool:
    """Whether dnslib takes the labels of a question."""
    return all(33 <= byte < 127 for label in labels_of(packet_question[:-4]) for byte in label)


def question(name: str, kind: str = "A", *, edns: int = 0, do: bool = False, identity: int = 0x1234) -> bytes:
    """A query packet with the letters of its name as given."""
    record = DNSRecord(DNSHeader(id=identity, rd=1), questions=[DNSQuestion(name, getattr(QTYPE, kind))])
    if edns:
        record.add_ar(EDNS0(udp_len=edns, flags="do" if do else ""))
    return bytes(record.pack())


def lines(records: Sequence[Any]) -> list[str]:
    """Zone-file lines (`owner TYPE rdata`, lower case, without TTL), sorted: what tables compare."""
    return sorted(
        f"{record.rname} {QTYPE[record.rtype]} {record.rdata}".lower() for record in records if record.rtype != 41
    )


def sections(record: DNSRecord) -> tuple[Any, ...]:
    """What two replies must have in common to say the same."""
    header = record.header
    return header.id, header.rcode, header.aa, header.tc, lines(record.rr), lines(record.auth), lines(record.ar)


def service(
    name: str, *ips: str, ports: Sequence[tuple[str, str, int]] = (("http", "TCP", 80),),
    namespace: str = "testns", headless: bool = False, external: str = "",
) -> Service:  # fmt: skip
    return Service(
        namespace=namespace,
        name=name,
        type=ServiceType.EXTERNAL_NAME if external else ServiceType.CLUSTER_IP,
        headless=headless,
        cluster_ips=ips,
        ports=tuple(
            ServicePort(name=port, protocol=Protocol(proto), port=number) for port, proto, number in ports
        ),
        external_name=external,
    )


def endpoint(address: str, hostname: str = "", ready: bool = True, pod: str = "") -> Endpoint:
    return Endpoint(address=address, hostname=hostname, conditions=Conditions(ready=ready), pod_name=pod)


def piece(
    owner: str, *endpoints: Endpoint | str, ports: Sequence[tuple[str, str, int]] = (("http", "TCP", 80),),
    namespace: str = "testns", name: str = "",
) -> EndpointSlice:  # fmt: skip
    found = tuple(endpoint(one) if isinstance(one, str) else one for one in endpoints)
    return EndpointSlice(
        namespace=namespace,
        name=name or f"{owner}-1",
        service=owner,
        ports=tuple(SlicePort(name=port, protocol=Protocol(proto), port=number) for port, proto, number in ports),
        endpoints=found,
    )


def coredns_fixture(options: str = "ttl 5", corefile: str = COREFILE) -> Bed:
    """The cluster of CoreDNS's own handler tests (reference/dns.md §2.2)."""
    bed = Bed(options, corefile)
    for namespace in ("testns", "podns", "svcns", "kube-system"):
        bed.zone.set_namespace(namespace, True)
    bed.add(service("svc1", "10.0.0.1"), piece("svc1", endpoint("172.0.0.1", "ep1a")))
    bed.add(service("svcempty", "10.0.0.1"))
    bed.add(service("svc6", "1234:abcd::1"), piece("svc6", endpoint("5678:abcd::9", "ep1a")))
    bed.add(service("svc-dual-stack", "10.0.0.3", "10::3"))
    bed.add(
        service("hdls1", headless=True),
        piece(
            "hdls1", "172.0.0.2", "172.0.0.3", endpoint("172.0.0.4", "dup-name"), endpoint("172.0.0.5", "dup-name")
        ),
        piece("hdls1", "5678:abcd::1", "5678:abcd::2", name="hdls1-v6"),
    )
    bed.add(service("hdlsprtls", headless=True, ports=()), piece("hdlsprtls", "172.0.0.20", ports=()))
    bed.add(service("external", external="ext.interwebs.test"))
    bed.add(service("external-to-service", external="svc1.testns.svc.cluster.local."))
    bed.add(service("kubedns", "10.0.0.10", namespace="kube-system", ports=(("dns", "UDP", 53),)))
    bed.upstream.zone[("ext.interwebs.test.", "A")] = ["ext.interwebs.test. 300 IN A 1.2.3.4"]
    bed.sync()
    return bed
