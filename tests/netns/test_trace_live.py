"""`kubeproxy trace --live`: one packet is sent, and the kernel's word compared with the model's."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from kubeproxy.dataplane.iptables.locate import IptablesLocator
from kubeproxy.dataplane.ipvs.locate import IpvsLocator
from kubeproxy.dataplane.locate import Locator
from kubeproxy.dataplane.nftables.locate import NftablesLocator
from kubeproxy.kernel import tracing_nft
from kubeproxy.kernel.conntrack import KernelConntrack
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import AddTable, FlushChain
from kubeproxy.kernel.paths import TracedFlow
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.tracing import Tracer
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import FlowMatch
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import Protocol
from kubeproxy.trace.answer import Answer, Live
from kubeproxy.trace.compare import compare
from kubeproxy.trace.diagnose import findings
from kubeproxy.trace.explainer import Condition, Explainer
from kubeproxy.trace.facts import read_facts
from kubeproxy.trace.live import observe
from tests.scenarios.asking import disagreement, question_of
from tests.scenarios.history import Moment, moments
from tests.scenarios.lab import Lab
from tests.scenarios.modes import IPTABLES, MODES
from tests.scenarios.rows_crowds import crowd
from tests.scenarios.runner import Programmed
from tests.scenarios.scene import Case
from tests.scenarios.table import Row, eps, row, svc

pytestmark = pytest.mark.netns

HERE = [name for name, mode in MODES.items() if mode.exists()]

FLAVOURS = {"ipvs": Flavour.LEGACY, "nftables": Flavour.NFT}
LOCATORS: dict[str, Locator] = {"ipvs": IpvsLocator(IpvsSettings()), "nftables": NftablesLocator()}
LOCAL = {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
WAYS = "nodeport external balancer"
DNS = "dns=53/UDP,dns-sctp=53/SCTP"
RANGED = svc("80", "balancer", loadBalancerSourceRanges=["$outside/host"])

ROWS = [
    row("cluster", [svc("80", WAYS), eps("be1", "be3")], "pod,outside,node cluster:80 -> be1,be3 any"),
    row("outside", [svc("80", WAYS), eps("be1", "be3")], "pod,outside external,nodeport:80 -> be1,be3 masq"),
    row("hairpin", [svc(), eps("be1")], "be1 cluster:80 -> be1 masq\nbe2 cluster:80 -> be1 same"),
    row("local", [svc("80", WAYS, **LOCAL), eps("be1", "be3")], "outside,blocked balancer:80 -> be1 same"),
    row(
        "short",
        [svc("80", WAYS, **LOCAL), eps("be3")],
        "pod external:80 -> be3 same\nnode external:80 -> be3 masq",
    ),
    row(
        "far", [svc("80", WAYS, **LOCAL), eps("be3")], "outside external:80 -> DROPPED\npod cluster:80 -> DROPPED"
    ),
    row("nobody", [svc("80", WAYS)], "pod,node cluster:80 -> REFUSED\noutside,node external:80 -> REFUSED"),
    row("undefined", [svc(), eps("be1")], "pod,node cluster:81 -> REFUSED\npod,node unallocated:80 -> DROPPED"),
    row("ranges", [RANGED, eps("be1")], "outside balancer:80 -> be1 masq\nblocked balancer:80 -> DROPPED"),
    row(
        "datagrams",
        [svc(DNS), eps("be1", ports=DNS)],
        "pod UDP cluster:53 -> be1 same\npod SCTP cluster:53 -> be1 same",
    ),
    row("host", [svc(), eps("node", ports="80>8088")], "pod cluster:80 -> node same\nnode cluster:80 -> node any"),
    row("sticky", [svc(sessionAffinity="ClientIP"), eps("be1", "be3")], "pod cluster:80 -> sticky be1,be3 same"),
    row(
        "deaf",
        [svc(name="deaf"), eps("be1", ports="80>81", service="deaf")],
        "pod deaf/cluster:80 -> be1 same 81\nnode deaf/cluster:80 -> be1 masq 81",
    ),
    row(
        "plain",
        [svc("80", "external"), eps("be1")],
        "pod,node external:81 -> IGNORED | iptables\npod be1:80 -> be1 same",
    ),
]


class Scene:
    """A programmed lab, and what trace says of it."""

    def __init__(self, place: Lab, moment: Moment, name: str) -> None:
        self.place = place
        self.cases = moment.cases
        self.comes_in = "INPUT" if name == "ipvs" else "FORWARD"
        """Where the filter table meets what others send to a Service."""
        self._flavour = FLAVOURS.get(name) or Flavour(name.removeprefix("iptables-"))
        self._explainer = Explainer(
            moment.world,
            moment.settings,
            mode=MODES[name].word,
            flavour=self._flavour,
            locator=LOCATORS.get(name) or IptablesLocator(),
            families=tuple(Family),
            condition=lambda _: Condition(),
            local_addresses=lambda family: place.run("node", lambda: local_addresses(family)),
        )

    def case(self, words: str, family: Family = Family.V4) -> Case:
        return next(each for each in self.cases if words in each.text and each.family is family)

    def answer(self, case: Case) -> Answer:
        found = self._explainer.answer(question_of(case))
        assert isinstance(found, Answer)
        return found

    def live(self, case: Case) -> Live:
        answer = self.answer(case)
        tables = self.tables(case.family)

        def work() -> Live:
            return compare(answer, observe(answer, tables, ProcSysctls(), KernelConntrack(case.family)))

        return self.place.run("node", work)

    def findings(self, case: Case) -> str:
        answer = self.answer(case)
        tables, conntrack = self.tables(case.family), KernelConntrack(case.family)
        facts = self.place.run("node", lambda: read_facts(answer, tables, ProcSysctls(), conntrack))
        return "\n".join(findings(answer, facts))

    def tables(self, family: Family) -> Iptables:
        return Iptables(SystemExec(), family, self._flavour)

    def iptables(self, *words: str, family: Family = Family.V4) -> None:
        self.place.run("node", lambda: self.tables(family).run(*words))


@contextmanager
def programmed(place: Lab, name: str, rows: Sequence[Row] = ROWS, site: str = "usual") -> Iterator[Scene]:
    mode = MODES[name]
    with Programmed(place, mode, tuple(Family)) as node:
        (moment,) = moments(rows, site, mode.word, tuple(Family))
        assert node.sync(moment) == {}
        yield Scene(place, moment, name)


@pytest.fixture(params=HERE)
def scene(request: pytest.FixtureRequest, place: Lab) -> Iterator[Scene]:
    with programmed(place, request.param) as built:
        yield built


@pytest.fixture(params=[name for name in HERE if name in IPTABLES])
def by_iptables(request: pytest.FixtureRequest, place: Lab) -> Iterator[Scene]:
    with programmed(place, request.param) as built:
        yield built


IN_NF_TABLES = (f"iptables-{Flavour.NFT}", "nftables")
"""Modes whose rules are in nf_tables: a trace of legacy tables knows nothing of the others."""


@pytest.fixture(params=[name for name in HERE if name != "ipvs"])
def by_rules(request: pytest.FixtureRequest, place: Lab) -> Iterator[Scene]:
    """Where rules choose the endpoint: IPVS sends a first packet on whatever they, or ip_forward, say."""
    with programmed(place, request.param) as built:
        yield built


def test_the_kernel_does_as_the_model_says_and_nothing_is_left_behind(scene: Scene) -> None:
    wrong = []
    for case in scene.cases:
        answer, live = scene.answer(case), scene.live(case)
        assert not disagreement(case, answer)
        if live.differences or live.outcome != answer.outcome:
            wrong.append(f"{case}: {answer.outcome}, {live}")
    assert len(scene.cases) > 2 * 2 * len(ROWS)
    assert not wrong, "\n".join(wrong)
    for family in Family:
        raw = scene.place.run("node", lambda family=family: scene.tables(family).save("raw"))  # type: ignore[misc]
        assert "TRACE" not in raw
        assert not scene.place.run("node", KernelTable(family, tracing_nft.TABLE).exists)
    left = scene.place.run("node", lambda: subprocess.run(["ip", "-br", "link"], capture_output=True, text=True))
    assert "kptrace" not in left.stdout
    logger = scene.place.run("node", lambda: Path("/proc/thread-self/net/netfilter/nf_log").read_text())
    assert " 2 nfnetlink_log" not in logger


@pytest.mark.parametrize("name", HERE)
def test_an_endpoint_of_a_large_service(place: Lab, name: str) -> None:
    probes = "pod cluster:80 -> crowd same\noutside external:80 -> crowd masq"
    large = row("large", [svc("80", WAYS), *crowd(1000)], probes, site="crowds")
    with programmed(place, name, [large], "crowds") as scene:
        assert len(scene.cases) == 4
        for case in scene.cases:
            answer, live = scene.answer(case), scene.live(case)
            assert len([each for each in answer.endpoints if each.chance]) == 1000
            assert (live.outcome, live.differences) == (answer.outcome, ()), f"{case}: {live}"
            # The Service's own chain, a run's, and a row in it.
            assert live.path.count("KUBE-SVC-") == (3 if name in IPTABLES else 0), live.path


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(("site", "client"), [("bridge", "bridged"), ("interface prefix", "pod")])
def test_a_pod_comes_by_the_interface_that_pods_are_known_by(
    place: Lab, name: str, site: str, client: str
) -> None:
    probes = f"{client} cluster:80 -> be3 same\noutside cluster:80 -> be3 masq"
    known = row("known", [svc(), eps("be3")], probes, site=site)
    with programmed(place, name, [known], site) as scene:
        assert len(scene.cases) == 4
        for case in scene.cases:
            answer, live = scene.answer(case), scene.live(case)
            assert not disagreement(case, answer)
            assert live.outcome == "FORWARD"
            assert live.differences == ()


def test_a_rule_of_somebody_else_is_named(scene: Scene) -> None:
    case = scene.case("pod,outside,node cluster:80")
    rule = (scene.comes_in, "-s", case.source, "-p", "tcp", "-j", "DROP")
    scene.iptables("-I", *rule)
    try:
        live = scene.live(case)
        assert live.outcome == "DROPPED"
        assert (
            f"somebody else's rule: filter {scene.comes_in} -s {case.source}/32 -p tcp -j DROP"
            in live.differences[0]
        )
        assert f"filter {scene.comes_in} -s {case.source}/32 -p tcp -j DROP" in scene.findings(case)
    finally:
        scene.iptables("-D", *rule)
    assert scene.live(case).differences == ()
    assert scene.findings(case) == ""


def test_a_chain_that_somebody_emptied_is_noticed(by_rules: Scene) -> None:
    case = by_rules.case("be2 cluster:80 -> be1")
    rule = next(step.rule for step in by_rules.answer(case).steps if step.about == "endpoints")
    if rule.startswith("nat "):
        by_rules.iptables("-t", "nat", "-F", rule.split()[1])
    else:
        by_rules.place.run("node", lambda: KernelTable(Family.V4).commit([FlushChain(rule.split()[0])]))
    live = by_rules.live(case)
    assert live.differences, live
    assert live.outcome != "FORWARD"


@pytest.mark.parametrize("by_rules", [name for name in HERE if name in IN_NF_TABLES], indirect=True)
def test_another_table_of_nftables_is_named(by_rules: Scene) -> None:
    """Of one family its rule is shown, of both where to look."""
    case = by_rules.case("pod,outside,node cluster:80")
    for family, shown in (("ip", f"ip saddr {case.source} drop"), ("inet", "rule 2 (nft -a list chain inet")):
        wall = f"type filter hook forward priority 10; ip saddr {case.source} drop;"
        table = f"table {family} fire {{ chain wall {{ {wall} }}; }}"
        by_rules.place.run("node", lambda table=table: SystemExec().run(["nft", "-f", "-"], stdin=table))
        live = by_rules.live(case)
        by_rules.place.run(
            "node", lambda family=family: SystemExec().run(["nft", "delete", "table", family, "fire"])
        )
        assert live.outcome == "DROPPED"
        assert "the kernel stops it, by somebody else's rule: " in live.differences[0]
        assert f"fire wall {shown}" in live.differences[0]


def test_a_stale_connection_is_named(by_iptables: Scene) -> None:
    case = by_iptables.case("pod UDP cluster:53")
    place = by_iptables.place
    assert by_iptables.findings(case) == ""
    # An entry from before there was a Service: the packet was let through untranslated.
    nat = ["-t", "nat", "-I", "PREROUTING", "-d", case.address, "-j", "ACCEPT"]
    by_iptables.iptables(*nat)
    allow = ["-I", "FORWARD", "-d", case.address, "-j", "ACCEPT"]
    by_iptables.iptables(*allow)
    with place.socket("pod", socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((case.source, 0))
        client.sendto(b"?", (case.address, case.port))
        found = by_iptables.findings(case)
    for words in (nat, allow):
        by_iptables.iptables(*["-D" if word == "-I" else word for word in words])
    conntrack = KernelConntrack(Family.V4)
    match = FlowMatch(protocol=Protocol.UDP, destination=case.address)
    place.run("node", lambda: conntrack.delete(list(conntrack.flows(match))))
    assert by_iptables.findings(case) == ""
    assert f"stale conntrack entry: UDP {case.source}:" in found, found
    assert f"→ {case.address}:53" in found
    assert "a rule of somebody else comes before kubeproxy's: nat PREROUTING" in found


def test_two_traces_do_not_disturb_each_other(scene: Scene) -> None:
    flow = TracedFlow(protocol=Protocol.TCP, source="192.0.2.1", source_port=1, destination="192.0.2.2", port=2)
    tracer = Tracer(scene.tables(Family.V4), ProcSysctls(), flow)
    case = scene.case("pod,outside,node cluster:80")
    scene.place.run("node", tracer.__enter__)
    try:
        with pytest.raises(KernelError, match="is tracing a packet on this node"):
            scene.live(case)
    finally:
        scene.place.run("node", lambda: tracer.__exit__(None, None, None))
    assert scene.live(case).differences == ()


def test_what_a_killed_predecessor_left_is_removed(scene: Scene) -> None:
    flow = TracedFlow(protocol=Protocol.TCP, source="192.0.2.1", source_port=1, destination="192.0.2.2", port=2)
    tables = scene.tables(Family.V4)
    left = [KernelTable(family, tracing_nft.TABLE) for family in Family]
    if tables.flavour is Flavour.NFT:
        for table in left:
            scene.place.run("node", partial(table.commit, [AddTable("kubeproxy trace")]))
        scene.place.run("node", lambda: left[0].commit(list(tracing_nft.asking(Family.V4, flow))))
    else:
        comment = ("-m", "comment", "--comment", "kubeproxy trace")
        scene.iptables("-t", "raw", "-A", "PREROUTING", "-s", "192.0.2.1", *comment, "-j", "TRACE")
    scene.live(scene.case("pod,outside,node cluster:80"))
    assert "TRACE" not in scene.place.run("node", lambda: tables.save("raw"))
    for table in left:
        assert not scene.place.run("node", table.exists)


@pytest.mark.parametrize("value", ["1", "2"])
def test_reverse_path_filtering_is_no_obstacle(scene: Scene, value: str) -> None:
    everywhere = Path("/proc/sys/net/ipv4/conf/all/rp_filter")
    scene.place.run("node", lambda: everywhere.write_text(value))
    try:
        for words in ("be2 cluster:80 -> be1", "outside balancer:80 -> be1 masq"):
            assert scene.live(scene.case(words)).differences == ()
    finally:
        scene.place.run("node", lambda: everywhere.write_text("0"))


def test_an_endpoint_that_refuses_is_told_from_a_proxy_that_does(scene: Scene) -> None:
    deaf = scene.case("node deaf/cluster:80")
    live = scene.live(deaf)
    assert (live.outcome, live.differences) == ("FORWARD", ())
    assert live.path.endswith("10.244.0.11:81, masqueraded → refused by the endpoint")


def test_forwarding_off_is_named_and_seen(by_rules: Scene) -> None:
    case = by_rules.case("be2 cluster:80 -> be1")
    assert case.protocol is Protocol.TCP
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    by_rules.place.run("node", lambda: switch.write_text("0"))
    try:
        assert "forwarding is off" in by_rules.findings(case)
        assert "lost" in by_rules.live(case).differences[0]
    finally:
        by_rules.place.run("node", lambda: switch.write_text("1"))
