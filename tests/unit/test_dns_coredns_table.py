"""CoreDNS's own handler test table (reference/dns.md §2.2) as data, against records, wire, table and handler.

Every case is asked by both paths where both can answer (`Bed.ask_raw` compares them). Cases where we differ on
purpose stand at the end, with the reason in dns/README.md.
"""

import pytest

from tests.dns_bed import Bed, coredns_fixture, lines, service

pytestmark = pytest.mark.unit

Z = "cluster.local."
NS = f"testns.svc.{Z}"

SVC1_SRV = [f"{{}} srv 0 100 80 svc1.{NS}"]
HDLS1 = ["172.0.0.2", "172.0.0.3", "172.0.0.4", "172.0.0.5"]
HDLS1_V6 = ["5678:abcd::1", "5678:abcd::2"]
HDLS1_SRV = [
    f"{{}} srv 0 16 80 {label}.hdls1.{NS}"
    for label in ("172-0-0-2", "172-0-0-3", "5678-abcd--1", "5678-abcd--2", "dup-name")
]

# (row of the table, name, type, answers; {} is the owner)
POSITIVE = [
    (1, f"svc1.{NS}", "A", ["{} a 10.0.0.1"]),
    (2, f"svcempty.{NS}", "A", ["{} a 10.0.0.1"]),
    (3, f"svc1.{NS}", "SRV", SVC1_SRV),
    (4, f"svcempty.{NS}", "SRV", [f"{{}} srv 0 100 80 svcempty.{NS}"]),
    (5, f"svc6.{NS}", "SRV", [f"{{}} srv 0 100 80 svc6.{NS}"]),
    (6, f"_http._tcp.svc1.{NS}", "SRV", SVC1_SRV),
    (7, f"_http._tcp.svcempty.{NS}", "SRV", [f"{{}} srv 0 100 80 svcempty.{NS}"]),
    (8, f"hdls1.{NS}", "A", [f"{{}} a {ip}" for ip in HDLS1]),
    (9, f"hdlsprtls.{NS}", "A", ["{} a 172.0.0.20"]),
    (13, f"dns-version.{Z}", "TXT", ['{} txt "1.1.0"']),
    (17, f"svc6.{NS}", "AAAA", ["{} aaaa 1234:abcd::1"]),
    (18, f"_http._tcp.svc6.{NS}", "SRV", [f"{{}} srv 0 100 80 svc6.{NS}"]),
    (19, f"hdls1.{NS}", "AAAA", [f"{{}} aaaa {ip}" for ip in HDLS1_V6]),
    (23, f"svc-dual-stack.{NS}", "A", ["{} a 10.0.0.3"]),
    (23, f"svc-dual-stack.{NS}", "AAAA", ["{} aaaa 10::3"]),
    (23, f"svc-dual-stack.{NS}", "SRV", [f"{{}} srv 0 50 80 svc-dual-stack.{NS}"]),
    (26, f"_http._tcp.hdls1.{NS}", "SRV", HDLS1_SRV),
    (27, f"5678-abcd--2.hdls1.{NS}", "AAAA", ["{} aaaa 5678:abcd::2"]),
    (27, f"5678-abcd--1.hdls1.{NS}", "AAAA", ["{} aaaa 5678:abcd::1"]),
    (28, f"172-0-0-20.hdlsprtls.{NS}", "A", ["{} a 172.0.0.20"]),
    (29, f"172-0-0-2.hdls1.{NS}", "A", ["{} a 172.0.0.2"]),
    (29, f"172-0-0-3.hdls1.{NS}", "A", ["{} a 172.0.0.3"]),
    (30, f"dup-name.hdls1.{NS}", "A", ["{} a 172.0.0.4", "{} a 172.0.0.5"]),
    (31, f"external.{NS}", "CNAME", ["{} cname ext.interwebs.test."]),
    (32, f"external.{NS}", "A", ["{} cname ext.interwebs.test.", "ext.interwebs.test. a 1.2.3.4"]),
    (33, f"external-to-service.{NS}", "A", [f"{{}} cname svc1.{NS}", f"svc1.{NS} a 10.0.0.1"]),
    (42, f"10-240-0-1.podns.pod.{Z}", "A", ["{} a 10.240.0.1"]),
    (42, f"172-0-0-2.podns.pod.{Z}", "A", ["{} a 172.0.0.2"]),
    (42, f"fd00-aa--5.podns.pod.{Z}", "AAAA", ["{} aaaa fd00:aa::5"]),
    (47, "1.0.0.172.in-addr.arpa.", "PTR", [f"{{}} ptr ep1a.svc1.{NS}"]),
    (48, "1.0.0.10.in-addr.arpa.", "PTR", [f"{{}} ptr svc1.{NS}"]),
    (48, "10.0.0.10.in-addr.arpa.", "PTR", ["{} ptr kubedns.kube-system.svc.cluster.local."]),
    (49, "2.0.0.172.in-addr.arpa.", "PTR", [f"{{}} ptr 172-0-0-2.hdls1.{NS}"]),
    (49, "9." + "0." * 23 + "d.c.b.a.8.7.6.5.ip6.arpa.", "PTR", [f"{{}} ptr ep1a.svc6.{NS}"]),
]

NODATA = [
    (10, f"svc1.{NS}", "AAAA"),
    (14, f"svc1.{NS}", "TXT"),
    (20, f"svc.{Z}", "A"),
    (20, f"pod.{Z}", "A"),
    (20, NS, "A"),
    (21, f"svc.{Z}", "NS"),
    (21, NS, "NS"),
    (24, f"svc1.{NS}", "SOA"),
    (43, f"podns.pod.{Z}", "A"),
    (44, f"svcns.svc.{Z}", "A"),
    (45, Z, "HINFO"),
    (45, Z, "A"),
    (45, Z, "AAAA"),
    (45, Z, "SRV"),
    (51, f"svc1.{NS}", "PTR"),
    # reference/dns.md §2.3
    (0, f"svc1.{NS}", "DS"),
    (0, f"svc1.{NS}", "ANY"),
    (0, f"svc1.{NS}", "HTTPS"),
    (0, f"hdlsprtls.{NS}", "SRV"),
    (0, f"10-240-0-1.podns.pod.{Z}", "AAAA"),
]

NXDOMAIN = [
    (11, f"svc0.{NS}", "A"),
    (11, f"svc0.{NS}", "AAAA"),
    (12, f"svc0.svc-nons.svc.{Z}", "A"),
    (15, f"svc0.svc-nons.svc.{Z}", "TXT"),
    (16, f"bogusendpoint.hdls1.{NS}", "A"),
    (16, f"bogusendpoint.svc0.{NS}", "A"),
    (22, f"foo.{Z}", "NS"),
    (22, f"foo.svc.{Z}", "NS"),
    (25, f"endpoint.external.{NS}", "CNAME"),
    (25, f"subdomain.subdomain.external.{NS}", "CNAME"),
    (35, f"svc1.nsnoexist.svc.{Z}", "A"),
    (43, f"blah.podns.pod.{Z}", "A"),
    (43, f"blah.podns.pod.{Z}", "AAAA"),
    (43, f"blah.podns.pod.{Z}", "HINFO"),
    (43, f"10-0-0-1.pod-nons.pod.{Z}", "A"),
    (44, f"pod-nons.pod.{Z}", "A"),
    (51, f"100.0.0.10.{Z}", "PTR"),
    (51, f"example.org.{Z}", "PTR"),
    (0, f"_http._udp.svc1.{NS}", "SRV"),
    (0, f"_nope._tcp.svc1.{NS}", "SRV"),
    (0, f"172-0-0-4.hdls1.{NS}", "A"),
    (0, f"a.b.c.svc1.{NS}", "A"),
    (0, f"_http._tcp.hdlsprtls.{NS}", "SRV"),
    (0, f"*.{NS}", "A"),
    (0, f"svc1.*.svc.{Z}", "A"),
    (0, f"any.any.svc.{Z}", "A"),
]


@pytest.fixture(scope="module")
def bed() -> Bed:
    return coredns_fixture()


@pytest.mark.parametrize(("row", "name", "kind", "answers"), POSITIVE, ids=lambda value: str(value)[:60])
def test_answers(bed: Bed, row: int, name: str, kind: str, answers: list[str]) -> None:
    reply = bed.ask(name, kind)
    assert reply.header.rcode == 0
    assert reply.header.aa == 1
    assert lines(reply.rr) == sorted(line.format(name) for line in answers)
    assert lines(reply.auth) == []


@pytest.mark.parametrize(("row", "name", "kind"), NODATA)
def test_no_data_has_a_soa(bed: Bed, row: int, name: str, kind: str) -> None:
    reply = bed.ask(name, kind)
    assert (reply.header.rcode, lines(reply.rr)) == (0, [])
    assert str(reply.auth[0].rname) == Z
    assert reply.auth[0].ttl == 5


@pytest.mark.parametrize(("row", "name", "kind"), NXDOMAIN)
def test_no_such_name_has_a_soa(bed: Bed, row: int, name: str, kind: str) -> None:
    reply = bed.ask(name, kind)
    assert (reply.header.rcode, lines(reply.rr)) == (3, [])
    assert str(reply.auth[0].rdata).startswith(f"ns.dns.{Z} hostmaster.{Z}")
    assert str(reply.auth[0].rdata).endswith(" 7200 1800 86400 5")


def test_srv_brings_the_addresses_of_its_targets(bed: Bed) -> None:
    assert lines(bed.ask(f"svc1.{NS}", "SRV").ar) == [f"svc1.{NS} a 10.0.0.1"]
    assert lines(bed.ask(f"svc-dual-stack.{NS}", "SRV").ar) == [
        f"svc-dual-stack.{NS} a 10.0.0.3",
        f"svc-dual-stack.{NS} aaaa 10::3",
    ]
    assert len(bed.ask(f"_http._tcp.hdls1.{NS}", "SRV", edns=1232).ar) - 1 == 6


def test_the_letters_of_the_question_come_back(bed: Bed) -> None:
    for name, kind in (
        ("SvC1.TeStNs.SvC.cLuStEr.LoCaL.", "A"),
        ("_HtTp._TcP.sVc1.TeStNs.SvC.cLuStEr.LoCaL.", "SRV"),
        ("not-a-service.testns.svc.ClUsTeR.lOcAl.", "A"),
        ("Cluster.local.", "SOA"),
    ):
        reply = bed.ask(name, kind)
        assert str(reply.q.qname) == name
        assert all(str(record.rname) == name for record in reply.rr)
    assert str(bed.ask("nope.ClUsTeR.lOcAl.").auth[0].rname) == "ClUsTeR.lOcAl."


def test_a_cut_upstream_reply_marks_the_whole_answer_cut() -> None:
    bed = coredns_fixture()
    bed.upstream.truncate = True
    reply = bed.ask(f"external.{NS}", "A")
    assert reply.header.tc == 1
    assert lines(reply.rr) == ["ext.interwebs.test. a 1.2.3.4", f"external.{NS} cname ext.interwebs.test."]


def test_an_alias_whose_target_has_nothing_stands_alone(bed: Bed) -> None:
    reply = bed.ask(f"external.{NS}", "AAAA")
    assert (reply.header.rcode, lines(reply.rr)) == (0, [f"external.{NS} cname ext.interwebs.test."])


def test_an_alias_whose_target_nobody_can_resolve_stands_alone(bed: Bed) -> None:
    bed.upstream.away = True
    reply = bed.ask(f"external.{NS}", "A")
    assert (reply.header.rcode, lines(reply.rr)) == (0, [f"external.{NS} cname ext.interwebs.test."])


def test_the_apex_soa_and_servers(bed: Bed) -> None:
    soa = bed.ask(Z, "SOA")
    assert str(soa.rr[0].rdata).startswith(f"ns.dns.{Z}")
    bed.zone.set_servers(["10.9.8.7"])
    servers = bed.ask(Z, "NS")
    assert lines(servers.rr) == [f"{Z} ns ns.dns.{Z}"]
    assert lines(servers.ar) == [f"ns.dns.{Z} a 10.9.8.7"]
    assert lines(bed.ask(f"ns.dns.{Z}").rr) == [f"ns.dns.{Z} a 10.9.8.7"]
    bed.zone.set_servers(["172.0.0.1"])  # an endpoint of svc1: so svc1 is the name server
    assert lines(bed.ask(Z, "NS").rr) == [f"{Z} ns svc1.{NS}"]
    bed.zone.set_servers([])
    assert (bed.ask(Z, "NS").header.rcode, lines(bed.ask(Z, "NS").rr)) == (0, [])


def test_unknown_is_a_server_failure_until_everything_is_known() -> None:
    fresh = Bed("ttl 5")
    assert fresh.ask(f"svc0.{NS}").header.rcode == 2
    fresh.add(service("svc1", "10.0.0.1"))
    assert lines(fresh.ask(f"svc1.{NS}").rr) == [f"svc1.{NS} a 10.0.0.1"]
    fresh.sync()
    assert fresh.ask(f"svc0.{NS}").header.rcode == 3


def test_pods_disabled_has_no_pod_names() -> None:
    bed = coredns_fixture("pods disabled")
    assert bed.ask(f"10-240-0-1.podns.pod.{Z}").header.rcode == 3
    assert bed.ask(f"podns.pod.{Z}").header.rcode == 3


def test_ignored_empty_services() -> None:
    bed = coredns_fixture("ignore empty_service")
    assert bed.ask(f"svcempty.{NS}").header.rcode == 3
    assert lines(bed.ask(f"external.{NS}", "CNAME").rr) != []


def test_unexposed_namespaces_do_not_exist() -> None:
    bed = coredns_fixture("namespaces kube-system")
    assert bed.ask(f"svc1.{NS}").header.rcode == 3
    assert bed.ask(NS).header.rcode == 3
    assert bed.ask(f"kubedns.kube-system.svc.{Z}").header.rcode == 0


def test_without_endpoints_headless_services_are_empty() -> None:
    bed = coredns_fixture("noendpoints")
    assert bed.ask(f"hdls1.{NS}").header.rcode == 3
    assert bed.ask(f"svc1.{NS}").header.rcode == 0


def test_reverse_misses_fall_through_or_are_denied_with_their_zone() -> None:
    bed = coredns_fixture()
    assert bed.ask("101.0.0.10.in-addr.arpa.", "PTR").header.rcode == 3
    assert bed.upstream.asked == [("101.0.0.10.in-addr.arpa.", "PTR")]
    closed = coredns_fixture(corefile=".:53 {\n kubernetes cluster.local 10.0.0.0/16 {\n OPTIONS\n }\n}")
    denied = closed.ask("101.0.0.10.in-addr.arpa.", "PTR")
    assert (denied.header.rcode, str(denied.auth[0].rname)) == (3, "0.10.in-addr.arpa.")
    assert lines(closed.ask("1.0.0.10.in-addr.arpa.", "PTR").rr) != []
    # An address outside the CIDR is nobody's here.
    assert closed.ask("1.0.0.172.in-addr.arpa.", "PTR").header.rcode == 3
    assert closed.upstream.asked == [("1.0.0.172.in-addr.arpa.", "PTR")]


# --- where we differ from CoreDNS, on purpose (dns/README.md)


def test_a_name_exists_for_every_type_or_for_none(bed: Bed) -> None:
    for name in (f"_tcp.svc1.{NS}", f"dns.{Z}", f"ns.dns.{Z}", f"dns-version.{Z}", f"_http._tcp.svc1.{NS}"):
        for kind in ("A", "AAAA", "MX", "HTTPS"):
            assert (bed.ask(name, kind).header.rcode, lines(bed.ask(name, kind).rr)) == (0, []), (name, kind)
    assert bed.ask(f"a.dns-version.{Z}", "TXT").header.rcode == 3
    assert bed.ask(Z, "TXT").header.rcode == 0


def test_an_alias_answers_every_type_with_its_cname(bed: Bed) -> None:
    assert lines(bed.ask(f"external.{NS}", "MX").rr) == [f"external.{NS} cname ext.interwebs.test."]


def test_pod_names_have_no_names_below_them(bed: Bed) -> None:
    assert bed.ask(f"x.10-240-0-1.podns.pod.{Z}").header.rcode == 3


def test_port_names_need_their_underscores(bed: Bed) -> None:
    assert bed.ask(f"http.tcp.svc1.{NS}", "SRV").header.rcode == 3
