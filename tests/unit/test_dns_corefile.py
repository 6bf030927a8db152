"""The Corefile: what CoreDNS reads, and where it says what is wrong."""

from pathlib import Path

import pytest

from dns.chain import Build, Runtime
from dns.corefile import CorefileError, parse
from dns.instance import Plan
from dns.metrics import Metrics
from dns.plugins import ORDER, SETUP
from dns.plugins.kubernetes_options import read_options
from kubeproxy.clock import ManualClock
from tests.certificates import Authority

pytestmark = pytest.mark.unit

KUBEADM = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . RESOLV {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""


def plan(text: str, environment: dict[str, str] | None = None) -> Plan:
    async def reload() -> None:
        return None

    runtime = Runtime(ManualClock(), Metrics(), "Corefile", reload)
    return Plan(parse(text, file="Corefile", environment=environment or {}, default_port=53), runtime)


def refusal(text: str) -> str:
    with pytest.raises(CorefileError) as caught:
        plan(text)
    return str(caught.value)


def only(text: str) -> Build:
    return plan(text).builds[0]


def test_kubeadms_default_starts_unchanged(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("search example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n")
    found = plan(KUBEADM.replace("RESOLV", str(resolv)))
    assert found.builds[0].lameduck == 5.0
    assert [page.address + page.path for page in found.pages] == [":8181/ready", ":8080/health", ":9153/metrics"]
    assert set(found.builds[0].links) == {"errors", "kubernetes", "forward", "cache", "loop", "loadbalance"}


def test_words_quotes_comments_variables_and_snippets() -> None:
    blocks = parse(
        '(common) {\n errors # not a word\n}\nexample.org:{$PORT} other.test, third.test {\n import common\n'
        ' log "." # done\n forward . "192.0.2.1" {\n  policy sequential\n }\n}\n',
        file="Corefile",
        environment={"PORT": "5300"},
    )  # fmt: skip
    assert blocks[0].zones == (("example.org.", 5300), ("other.test.", 53), ("third.test.", 53))
    assert [(one.name, one.args) for one in blocks[0].directives] == [
        ("errors", ()),
        ("log", (".",)),
        ("forward", (".", "192.0.2.1")),
    ]
    assert blocks[0].directives[2].block[0].name == "policy"


def test_imported_files(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("one.test {\n errors\n}\n")
    (tmp_path / "b.conf").write_text("two.test {\n errors\n}\n")
    blocks = parse("import *.conf\n", file=str(tmp_path / "Corefile"), environment={})
    assert [block.zones[0][0] for block in blocks] == ["one.test.", "two.test."]


@pytest.mark.parametrize(
    ("key", "zones"),
    [
        (".", ["."]),
        ("dns://Example.ORG:53", ["example.org."]),
        ("10.0.0.0/8", ["10.in-addr.arpa."]),
        ("10.1.2.0/24", ["2.1.10.in-addr.arpa."]),
        ("10.0.0.0/15", ["0.10.in-addr.arpa.", "1.10.in-addr.arpa."]),
        ("fd00::/16", ["0.0.d.f.ip6.arpa."]),
        ("fd00::/15:53", ["0.0.d.f.ip6.arpa.", "1.0.d.f.ip6.arpa."]),
    ],
)
def test_zones(key: str, zones: list[str]) -> None:
    assert [zone for zone, _ in parse(key + " {\n errors\n}", file="f", environment={})[0].zones] == zones


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (".:53 {\n errors\n", "Corefile:2 - Error during parsing: unexpected EOF, missing '}'"),
        (".:53 {\n errors\n}\n}\n", "Corefile:4 - Error during parsing: unexpected '}'"),
        (".:99999 {\n errors\n}\n", "Corefile:1 - Error during parsing: '99999' is no port"),
        ('.:53 {\n errors "open\n}\n', "Corefile:2 - Error during parsing: quoted string does not end"),
        (".:53 {\n florp\n}\n", "Corefile:2 - Error during parsing: Unknown directive 'florp'"),
        (". {\n errors\n rewrite name a\n}\n", "Corefile:3 - Error during parsing: plugin 'rewrite' is not"),
        ("tls://. {\n errors\n}\n", "transport 'tls' is not built yet"),
        (".:53 {\n import nowhere\n}\n", "file to import not found: nowhere"),
        ("(a) {\n import a\n}\n. {\n import a\n}\n", "imports: one imports itself"),
        (". {\n errors\n}\n. {\n log\n}\n", "cannot serve dns://.:53 - it is already defined"),
        (". {\n kubernetes\n}\n\n10.0.0.0/8:54 {\n kubernetes\n}", "non-reverse zone name must be used"),
        (". {\n kubernetes a.b {\n  pods verified\n }\n}", "Corefile:3 - Error during parsing: pods verified is"),
        (". {\n kubernetes a.b {\n  pods maybe\n }\n}", "wrong value for pods: maybe"),
        (". {\n kubernetes a.b {\n  ttl 3601\n }\n}", "ttl must be in range [0, 3600]: 3601"),
        (". {\n kubernetes a.b {\n  zonal\n }\n}", "option 'zonal' of kubernetes is not built yet"),
        (". {\n kubernetes a.b {\n  florp\n }\n}", "unknown property 'florp'"),
        (". {\n kubernetes a.b {\n  endpoint ftp://x\n }\n}", "'ftp://x' is no URL of an API server"),
        (". {\n kubernetes a.b {\n  tls a b\n }\n}", "wrong argument count or unexpected line ending after 'tls'"),
        (". {\n kubernetes a.b {\n  endpoint https://x\n  tls /a /b /no/c\n }\n}", "certificate-authority: /no/c"),
        (". {\n kubernetes a.b {\n  kubeconfig /no/config\n }\n}", "kubeconfig /no/config: No such file"),
        (". {\n kubernetes a.b {\n  namespaces A_b\n }\n}", "'A_b' is no namespace"),
        (". {\n kubernetes a..b\n}", "a label is empty"),
        (". {\n kubernetes a.b\n kubernetes c.d\n}", "only one kubernetes section allowed per server block"),
        (". {\n forward .\n}", "a zone and at least one upstream are expected"),
        (". {\n forward . tls://9.9.9.9\n}", "only plain DNS is built yet"),
        (". {\n forward . nowhere.example\n}", "not an IP address or file: 'nowhere.example'"),
        (". {\n forward . 192.0.2.1 {\n  florp\n }\n}", "option 'florp' of forward"),
        (". {\n cache 0\n}", "cache TTL can not be zero or negative: 0"),
        (". {\n bind eth0\n}", "not a valid IP address: eth0"),
        (". {\n health nonsense\n}", "missing port in address"),
        (". {\n health {\n  lameduck 5\n }\n}", "missing unit in duration"),
    ],
)  # fmt: skip
def test_complaints_name_the_line(text: str, complaint: str) -> None:
    assert complaint in refusal(text)


def test_a_kubeconfig_gives_its_server(tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        "current-context: lab\ncontexts: [{name: lab, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://192.0.2.1:8001'}}]\n"
    )
    text = f". {{\n kubernetes a.b {{\n  kubeconfig {config}\n }}\n}}"
    assert only(text).table_zones == ("a.b.",)
    config.write_text("contexts: 7")
    assert "Expected `array | null`, got `int` - at `$.contexts`" in refusal(text)


@pytest.mark.parametrize(
    ("lines", "server"),
    [
        ("", "http://127.0.0.1:8001"),
        ("endpoint https://api.example:6443", "https://api.example:6443"),
        ("endpoint https://api.example:6443\n  tls {0}/c.crt {0}/c.key {0}/ca.pem", "https://api.example:6443"),
        ("kubeconfig {0}/config", "https://first"),
        ("kubeconfig {0}/config other", "https://second"),
    ],
)
def test_the_api_server_is_found_as_coredns_does(lines: str, server: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("c")
    (tmp_path / "config").write_text(
        "current-context: one\n"
        "contexts: [{name: one, context: {cluster: a}}, {name: other, context: {cluster: b}}]\n"
        "clusters: [{name: a, cluster: {server: 'https://first'}}, {name: b, cluster: {server: 'https://second'}}]\n"
    )
    block = only(f". {{\n kubernetes a.b {{\n  {lines.format(tmp_path)}\n }}\n}}").block
    directive = next(each for each in block.directives if each.name == "kubernetes")
    options = read_options(directive, ("a.b.",), ManualClock())
    assert options.access.server == server


def test_every_built_plugin_has_a_place_in_the_order() -> None:
    assert set(SETUP) <= set(ORDER)
    assert len(set(ORDER)) == len(ORDER)
