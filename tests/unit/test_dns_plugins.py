"""forward, cache, loop, loadbalance, log, ready and metrics, without sockets."""

import asyncio
import logging
from typing import Any

import pytest
from dnslib import QTYPE, RR, DNSRecord

from dns.chain import Build, Failure, Runtime
from dns.corefile import parse
from dns.dispatch import Dispatcher
from dns.message import Query, Reply, finish, read_query
from dns.metrics import Histogram, Metrics
from dns.plugins import set_up
from dns.plugins.cache import Cache, CacheOptions, Limits
from dns.plugins.forward import Forward, ForwardOptions
from dns.plugins.loadbalance import LoadBalance
from dns.plugins.loop import Loop
from dns.upstream import REST_SECONDS, Upstream
from kubeproxy.clock import ManualClock, settle
from tests.dns_bed import Bed, coredns_fixture, lines, question, service

pytestmark = pytest.mark.unit


def query(name: str, kind: str = "A", **options: Any) -> Query:
    found = read_query(question(name, kind, **options), stream=False, client=("192.0.2.1", 53))
    assert isinstance(found, Query)
    return found


class Scripted:
    """Answers with the given zone-file lines and counts how often it was asked."""

    def __init__(self, *records: str, rcode: int = 0, authority: str = "") -> None:
        self.records = records
        self.rcode = rcode
        self.authority = authority
        self.asked = 0

    async def serve(self, query: Query) -> Reply:
        self.asked += 1
        reply = DNSRecord.parse(query.clean()).reply(aa=0)
        for line in self.records:
            reply.add_answer(*RR.fromZone(line))
        if self.authority:
            reply.add_auth(*RR.fromZone(self.authority))
        reply.header.rcode = self.rcode
        return Reply(bytes(reply.pack()), "forward")


def ask(handler: Any, wanted: Query) -> DNSRecord:
    return DNSRecord.parse(finish(wanted, asyncio.run(handler.serve(wanted))))


def cache_of(following: Any, clock: ManualClock, **options: Any) -> Cache:
    return Cache(following, CacheOptions(zones=(".",), **options), clock, Metrics())


def step(clock: ManualClock, seconds: float) -> None:
    asyncio.run(clock.step(seconds))


def test_a_cached_answer_ages_and_ends() -> None:
    clock, upstream = ManualClock(), Scripted("a.test. 100 IN A 192.0.2.1")
    cache = cache_of(upstream, clock, success=Limits(10, 30, 5))
    assert ask(cache, query("a.test.")).rr[0].ttl == 100
    step(clock, 10)
    second = ask(cache, query("A.tEst.", identity=77))
    assert (second.header.id, str(second.q.qname), second.rr[0].ttl) == (77, "A.tEst.", 20)
    assert upstream.asked == 1
    step(clock, 20)
    ask(cache, query("a.test."))
    assert upstream.asked == 2


def test_do_and_cd_and_types_are_kept_apart() -> None:
    clock, upstream = ManualClock(), Scripted("a.test. 100 IN A 192.0.2.1")
    cache = cache_of(upstream, clock)
    for wanted in (query("a.test."), query("a.test.", edns=1232, do=True), query("a.test.", "AAAA")):
        ask(cache, wanted)
    assert upstream.asked == 3


def test_denials_live_as_long_as_their_soa_says() -> None:
    clock = ManualClock()
    upstream = Scripted(rcode=3, authority="test. 900 IN SOA a.test. b.test. 1 2 3 4 60")
    cache = cache_of(upstream, clock)
    ask(cache, query("no.test."))
    step(clock, 59)
    assert ask(cache, query("no.test.")).header.rcode == 3
    assert upstream.asked == 1
    step(clock, 2)
    ask(cache, query("no.test."))
    assert upstream.asked == 2


@pytest.mark.parametrize("upstream", [Scripted(rcode=3), Scripted(rcode=5), Scripted()])
def test_what_may_not_be_kept_is_not(upstream: Scripted) -> None:
    cache = cache_of(upstream, ManualClock())
    ask(cache, query("no.test."))
    ask(cache, query("no.test."))
    assert upstream.asked == 2


def test_disabled_zones_and_capacity() -> None:
    upstream = Scripted("a.test. 100 IN A 192.0.2.1")
    closed = cache_of(upstream, ManualClock(), no_success=("test.",))
    ask(closed, query("a.test."))
    ask(closed, query("a.test."))
    assert upstream.asked == 2
    small = cache_of(upstream, ManualClock(), success=Limits(2, 30, 5))
    for name in ("a.test.", "b.test.", "c.test."):
        ask(small, query(name))
    assert len(small.positive) == 2


def test_names_of_services_are_never_cached() -> None:
    """A Service that was asked for too early must be there at once when it comes (reference §6, row 3)."""
    bed = Bed("ttl 30", ".:53 {\n cache 30\n kubernetes cluster.local {\n OPTIONS\n }\n}")
    bed.sync()
    assert bed.ask("late.testns.svc.cluster.local.").header.rcode == 3
    bed.add(service("late", "10.0.0.9"))
    assert lines(bed.ask("late.testns.svc.cluster.local.").rr) == ["late.testns.svc.cluster.local. a 10.0.0.9"]


class FakeUpstream(Upstream):
    def __init__(self, host: str, clock: ManualClock, error: Exception | None = None) -> None:
        super().__init__(host, 53, clock)
        self.error = error
        self.streams: list[bool] = []
        self.cut = False

    async def _over_udp(self, packet: bytes, query: Query) -> bytes:
        return self._reply(packet, False)

    async def _over_tcp(self, packet: bytes, query: Query) -> bytes:
        return self._reply(packet, True)

    def _reply(self, packet: bytes, stream: bool) -> bytes:
        self.streams.append(stream)
        if self.error is not None:
            raise self.error
        reply = DNSRecord.parse(packet).reply(aa=0)
        reply.add_answer(*RR.fromZone(f"{reply.q.qname} 60 IN A 192.0.2.7"))
        reply.header.tc = int(self.cut and not stream)
        return bytes(reply.pack())


def forward(clock: ManualClock, *upstreams: Upstream, **options: Any) -> Forward:
    settings = ForwardOptions(zones=(".",), policy="sequential", **options)
    return Forward(Scripted(rcode=5), list(upstreams), settings, clock, Metrics())


def test_the_next_upstream_answers_when_one_does_not() -> None:
    clock = ManualClock()
    dead, alive = (
        FakeUpstream("192.0.2.1", clock, ConnectionRefusedError("refused")),
        FakeUpstream("192.0.2.2", clock),
    )
    chain = forward(clock, dead, alive)
    for _ in range(4):
        assert lines(ask(chain, query("a.test.")).rr) == ["a.test. a 192.0.2.7"]
    assert len(dead.streams) == 2  # then it rests
    step(clock, REST_SECONDS + 1)
    ask(chain, query("a.test."))
    assert len(dead.streams) == 3


def test_no_upstream_is_a_failure_with_its_reason() -> None:
    clock = ManualClock()
    chain = forward(clock, FakeUpstream("192.0.2.1", clock, TimeoutError()))
    with pytest.raises(Failure, match=r"192.0.2.1:53: i/o timeout"):
        ask(chain, query("a.test."))
    with pytest.raises(Failure, match="no upstream"):
        ask(forward(clock), query("a.test."))


def test_a_cut_reply_is_asked_for_again_over_tcp() -> None:
    clock = ManualClock()
    upstream = FakeUpstream("192.0.2.1", clock)
    upstream.cut = True
    assert ask(forward(clock, upstream), query("a.test.")).header.tc == 0
    assert upstream.streams == [False, True]
    forced = FakeUpstream("192.0.2.1", clock)
    ask(forward(clock, forced, force_tcp=True), query("a.test."))
    assert forced.streams == [True]


def test_excepted_and_excess_queries_are_not_forwarded() -> None:
    clock = ManualClock()
    upstream = FakeUpstream("192.0.2.1", clock)
    assert ask(forward(clock, upstream, excepted=("test.",)), query("a.test.")).header.rcode == 5
    busy = forward(clock, upstream, max_concurrent=1)
    busy._under_way = 1
    assert ask(busy, query("a.test.")).header.rcode == 5
    assert upstream.streams == []


def test_a_loop_stops_forwarding_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(Scripted("x. 1 IN A 192.0.2.1"))
    loop.suspect(b"\3abc\0")
    probe = query("abc.", "HINFO")
    for _ in range(2):
        ask(loop, probe)
    with caplog.at_level(logging.ERROR), pytest.raises(Failure):
        ask(loop, probe)
    assert "come back to this server" in caplog.text
    with pytest.raises(Failure):
        ask(loop, query("other.test."))


def test_an_upstream_that_comes_late_is_no_loop() -> None:
    clock = ManualClock()
    upstream = FakeUpstream("192.0.2.1", clock, TimeoutError())

    async def nothing() -> None:
        pass

    block = parse(".:53 {\n loop\n}", file="Corefile", environment={})[0]
    build = Build(block, Runtime(clock, Metrics(), "Corefile", nothing))
    set_up(build)
    handler = build.links["loop"](forward(clock, upstream))

    async def probe() -> None:
        probing = asyncio.create_task(build.tasks[0]())
        for number in range(6):
            await settle()
            upstream.error = TimeoutError() if number < 5 else None
            await clock.step(2)
        await probing

    asyncio.run(probe())
    assert len(upstream.streams) == 6
    ask(handler, query("a.test."))


def test_all_addresses_of_a_block_share_its_cache() -> None:
    bed = Bed("ttl 5", ".:53 {\n cache 30\n kubernetes cluster.local {\n OPTIONS\n }\n}")
    bed.upstream.zone[("a.test.", "A")] = ["a.test. 300 IN A 192.0.2.1"]
    other = Dispatcher({".": bed.build}, 53, bed.clock, bed.metrics)
    asked = question("a.test.")
    for dispatcher in (bed.dispatcher, other):
        assert asyncio.run(dispatcher.serve(asked, False, ("192.0.2.9", 4711)))
    text = bed.metrics.exposition().decode()
    assert 'coredns_cache_hits_total{type="success"} 1.0' in text
    assert 'coredns_cache_entries{type="success"} 1.0' in text


def test_addresses_are_turned_and_aliases_stay_in_front() -> None:
    upstream = Scripted(
        "a.test. 60 IN CNAME b.test.", *(f"b.test. 60 IN A 192.0.2.{number}" for number in (1, 2, 3))
    )
    turned = LoadBalance(upstream)
    replies = [ask(turned, query("a.test.")) for _ in range(3)]
    assert all(QTYPE[reply.rr[0].rtype] == "CNAME" for reply in replies)
    assert len({str(reply.rr[1].rdata) for reply in replies}) == 3
    assert len({tuple(lines(reply.rr)) for reply in replies}) == 1


def test_the_query_log_has_corednss_format(caplog: pytest.LogCaptureFixture) -> None:
    bed = Bed("ttl 5", ".:53 {\n log\n kubernetes cluster.local {\n OPTIONS\n }\n}")
    bed.sync()
    with caplog.at_level(logging.INFO):
        bed.ask("nope.cluster.local.", identity=7)
    assert '192.0.2.9:4711 - 7 "A IN nope.cluster.local. udp 36 false 512" NXDOMAIN qr,aa,rd 90 0.' in caplog.text


def test_a_fault_of_ours_costs_one_answer(caplog: pytest.LogCaptureFixture) -> None:
    bed = coredns_fixture()

    async def broken(query: Query) -> Reply:
        raise RuntimeError("a bug")

    bed.upstream.serve = broken  # type: ignore[method-assign]
    assert bed.ask("example.org.").header.rcode == 2
    assert bed.metrics.panics == 1
    assert "panic while answering example.org." in caplog.text


def test_metrics_add_up() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    metrics = Metrics()
    for proto in ("udp", "tcp"):
        metrics.series("dns://:53", ".", proto, "1").add(65, 0, "kubernetes", 0.001, 40, 80)
        metrics.series("dns://:53", ".", proto, "1").add(4711, 3, "forward", 0.001, 40, 80)
    text = metrics.exposition().decode()
    assert (
        'coredns_dns_responses_total{plugin="forward",rcode="NXDOMAIN",server="dns://:53",view="",zone="."} 2.0'
        in text
    )
    assert 'proto="tcp",server="dns://:53",type="other"' in text
    assert 'coredns_dns_request_duration_seconds_count{server="dns://:53",view="",zone="."} 4.0' in text
