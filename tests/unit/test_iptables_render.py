"""What the text of one Service port says; what a packet then does is tests/scenarios/."""

import msgspec
import pytest

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.dispatch import Dispatch
from kubeproxy.dataplane.iptables.matches import pod_matches
from kubeproxy.dataplane.iptables.render import ENDPOINTS_MAX, STICKY_MAX, Fragment, Renderer, Unrenderable
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import LocalKind, LocalTraffic, node_state
from kubeproxy.model.objects import Protocol
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from tests.property.saved_tables import Chains, parse
from tests.property.shares import PRECISION, shares

pytestmark = pytest.mark.unit

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16", "fd00:244::/48"))
NAME = ServicePortName("ns1", "svc1", "p80", Protocol.TCP)
SVC, EXT, FW = "KUBE-SVC-XPGD46QRK7WJZT7O", "KUBE-EXT-XPGD46QRK7WJZT7O", "KUBE-FW-XPGD46QRK7WJZT7O"

RANDOM = "-m statistic --mode random --probability"


def target(address: str, text: str) -> Target:
    return Target(text=text, address=address, port=80, may_be_local=False)


def targets(count: int) -> tuple[Target, ...]:
    return tuple(target(f"10.180.{i >> 8}.{i & 255}", f"10.180.{i >> 8}.{i & 255}:80") for i in range(count))


STATE = ServiceState(name=NAME, cluster_ip="172.30.0.41", port=80, cluster=targets(1), has_endpoints=True)


def render(state: ServiceState, settings: Settings = SETTINGS, family: Family = Family.V4) -> Fragment:
    return Renderer(node_state(World(), settings, family)).render(state)


def nat(fragment: Fragment) -> tuple[str, ...]:
    return tuple(map(str, fragment.nat_rules))


def filtered(fragment: Fragment) -> tuple[str, ...]:
    return tuple(map(str, fragment.filter_rules))


def changed(**fields: object) -> ServiceState:
    return msgspec.structs.replace(STATE, **fields)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (NAME, "XPGD46QRK7WJZT7O"),
        (ServicePortName("default", "kubernetes", "https", Protocol.TCP), "NPX46M4PTMTKRN6Y"),
        (ServicePortName("kube-system", "kube-dns", "dns", Protocol.UDP), "TCOU7JCQXEZGVUNU"),
    ],
)
def test_hashes_are_upstreams(name: ServicePortName, expected: str) -> None:
    assert names.port_hash(name) == expected


def test_endpoint_hashes_are_upstreams() -> None:
    assert names.endpoint_chain(NAME, "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert names.endpoint_chain(NAME, "[fd00::1]:80") == "KUBE-SEP-T5UNFIPVCZXM3U7X"


def test_a_cluster_ip_with_three_endpoints() -> None:
    fragment = render(changed(cluster=targets(3)))
    assert fragment.chains == (SVC,)
    assert nat(fragment) == (
        "KUBE-SERVICES -d 172.30.0.41/32 -p tcp -m tcp --dport 80 "
        f'-m comment --comment "ns1/svc1:p80 cluster IP" -j {SVC}',
    )
    assert filtered(fragment) == ()
    assert fragment.body.splitlines() == [
        f":{SVC} - [0:0]",
        f"-A {SVC} ! -s 10.244.0.0/16 -d 172.30.0.41/32 -j KUBE-MARK-MASQ",
        f"-A {SVC} -p tcp {RANDOM} 0.3333333333 -j DNAT --to-destination 10.180.0.0:80",
        f"-A {SVC} -p tcp {RANDOM} 0.5000000000 -j DNAT --to-destination 10.180.0.1:80",
        f"-A {SVC} -p tcp -j DNAT --to-destination 10.180.0.2:80",
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 100])
@pytest.mark.parametrize("masquerade_all", [True, False])
@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("settings", [SETTINGS, Settings(node_name="n")], ids=["pods known", "pods unknown"])
def test_the_short_way_leads_where_the_long_one_does(
    count: int, masquerade_all: bool, family: Family, settings: Settings
) -> None:
    settings = msgspec.structs.replace(settings, masquerade_all=masquerade_all)
    renderer = Renderer(node_state(World(), settings, family))
    for name in (NAME, ServicePortName("n" * 63, "s" * 253, "", Protocol.UDP)):
        ip = "172.30.0.41" if family is Family.V4 else "fd00:30::41"
        state = changed(name=name, cluster_ip=ip, cluster=targets(count))
        assert renderer.render(state) == renderer.in_general(state)


def test_ipv6_has_its_own_prefix_lengths_and_brackets() -> None:
    fragment = render(
        changed(cluster_ip="fd00:30::41", cluster=(target("fd00::1", "[fd00::1]:80"),)), family=Family.V6
    )
    assert "-d fd00:30::41/128 " in nat(fragment)[0]
    assert f"-A {SVC} ! -s fd00:244::/48 -d fd00:30::41/128 -j KUBE-MARK-MASQ" in fragment.body
    assert "--to-destination [fd00::1]:80\n" in fragment.body


@pytest.mark.parametrize(
    ("settings", "mark"),
    [
        (Settings(node_name="n"), None),
        (Settings(node_name="n", cluster_cidrs=("fd00::/48",)), None),
        (Settings(node_name="n", masquerade_all=True), f"-A {SVC} -d 172.30.0.41/32 -j KUBE-MARK-MASQ"),
    ],
    ids=["no pod network known", "only the other family's", "masquerade all"],
)
def test_who_is_masqueraded_on_the_way_to_a_cluster_ip(settings: Settings, mark: str | None) -> None:
    marks = [line for line in render(STATE, settings).body.splitlines() if "KUBE-MARK-MASQ" in line]
    assert marks == ([mark] if mark else [])


def test_ways_from_outside_lead_through_the_external_chain() -> None:
    fragment = render(changed(node_port=30080, external_ips=("1.2.3.4",), load_balancer_ips=("5.6.7.8",)))
    assert fragment.chains == (SVC, EXT)
    assert nat(fragment)[1:] == (
        f"KUBE-SERVICES -d 1.2.3.4/32 -p tcp -m tcp --dport 80 -j {EXT}",
        f"KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j {EXT}",
        f"KUBE-SERVICES -d 5.6.7.8/32 -p tcp -m tcp --dport 80 -j {EXT}",
    )
    assert f":{EXT} - [0:0]\n-A {EXT} -j KUBE-MARK-MASQ\n-A {EXT} -j {SVC}\n" in fragment.body


def test_source_ranges_guard_the_load_balancer_addresses_only() -> None:
    state = changed(
        node_port=30080, load_balancer_ips=("5.6.7.8",), source_ranges=("9.0.0.0/8",), node_in_ranges=True
    )
    fragment = render(state)
    assert fragment.chains == (SVC, EXT, FW)
    assert f"-A {FW} -s 9.0.0.0/8 -j {EXT}\n-A {FW} -s 5.6.7.8/32 -j {EXT}\n" in fragment.body
    assert f"KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j {EXT}" in nat(fragment)
    assert filtered(fragment) == (
        "KUBE-PROXY-FIREWALL -d 5.6.7.8/32 -p tcp -m tcp --dport 80 "
        f'-m comment --comment "ns1/svc1:p80 traffic not accepted by {FW}" -j DROP',
    )


def test_without_endpoints_every_address_refuses() -> None:
    """The cluster IP by the rule for all that are in the set of cluster IPs."""
    state = changed(
        cluster=(), has_endpoints=False, node_port=30080, external_ips=("1.2.3.4",), load_balancer_ips=("5.6.7.8",)
    )
    fragment = render(state)
    assert (fragment.chains, fragment.body) == ((), "")
    # An address of the node's own must not go on to a node port of that number, which is somebody else's.
    assert nat(fragment) == tuple(
        f"KUBE-SERVICES -d {ip}/32 -p tcp -m tcp --dport 80 -j ACCEPT" for ip in ("1.2.3.4", "5.6.7.8")
    )
    why = '-m comment --comment "ns1/svc1:p80 has no endpoints" -j REJECT'
    assert filtered(fragment) == (
        f"KUBE-EXTERNAL-SERVICES -d 1.2.3.4/32 -p tcp -m tcp --dport 80 {why}",
        f"KUBE-EXTERNAL-SERVICES -d 5.6.7.8/32 -p tcp -m tcp --dport 80 {why}",
        f"KUBE-EXTERNAL-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30080 {why}",
    )


def test_affinity_remembers_the_endpoint_before_it_chooses_one() -> None:
    fragment = render(changed(cluster=targets(2), affinity_seconds=60))
    seps = fragment.chains[1:]
    assert seps == tuple(names.endpoint_chain(NAME, f"10.180.0.{i}:80") for i in (0, 1))
    in_service = [line for line in fragment.body.splitlines() if line.startswith(f"-A {SVC} ")]
    assert in_service[1:] == [
        f"-A {SVC} -m set --match-set {seps[0]} src -j {seps[0]}",
        f"-A {SVC} -m set --match-set {seps[1]} src -j {seps[1]}",
        f"-A {SVC} -m statistic --mode random --probability 0.5000000000 -j {seps[0]}",
        f"-A {SVC} -j {seps[1]}",
    ]


SVL = "KUBE-SVL-XPGD46QRK7WJZT7O"
LOCAL = changed(cluster=targets(2), local=targets(1), external_local=True, external_ips=("1.2.3.4",))


def chain(fragment: Fragment, name: str) -> list[str]:
    return [
        line.removeprefix(f"-A {name} ") for line in fragment.body.splitlines() if line.startswith(f"-A {name} ")
    ]


def test_policy_local_tells_pods_and_the_node_from_strangers() -> None:
    fragment = render(LOCAL)
    assert fragment.chains == (SVC, SVL, EXT)
    assert chain(fragment, EXT) == [
        f"-s 10.244.0.0/16 -j {SVC}",
        "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
        f"-m addrtype --src-type LOCAL -j {SVC}",
        f"-j {SVL}",
    ]
    assert chain(fragment, SVL) == ["-p tcp -j DNAT --to-destination 10.180.0.0:80"]
    assert filtered(fragment) == ()


def test_policy_local_without_an_endpoint_here_falls_through_to_a_drop() -> None:
    fragment = render(msgspec.structs.replace(LOCAL, local=()))
    assert fragment.chains == (SVC, EXT)
    assert chain(fragment, EXT)[-2:] == [f"-m addrtype --src-type LOCAL -j {SVC}", "-j ACCEPT"]
    (dropped,) = filtered(fragment)
    assert dropped.startswith("KUBE-EXTERNAL-SERVICES -d 1.2.3.4/32 ")
    assert dropped.endswith('"ns1/svc1:p80 has no local endpoints" -j DROP')


def test_internal_policy_local_needs_no_chain_of_the_cluster() -> None:
    fragment = render(changed(cluster=(), local=targets(1), internal_local=True))
    assert fragment.chains == (SVL,)
    assert chain(fragment, SVL)[0] == "! -s 10.244.0.0/16 -d 172.30.0.41/32 -j KUBE-MARK-MASQ"
    assert nat(fragment)[0].endswith(f"-j {SVL}")


def test_a_cluster_ip_that_is_anothers_has_no_rule() -> None:
    lost = changed(cluster_ip="")
    assert render(lost) == Fragment(chains=(), body="", nat_rules=(), filter_rules=())
    assert all("172.30" not in rule for rule in nat(render(changed(cluster_ip="", node_port=30080))))


def test_who_is_admitted_comes_before_the_drop_when_nobody_is_there() -> None:
    state = changed(
        cluster=(), has_endpoints=False, load_balancer_ips=("5.6.7.8",), source_ranges=("9.0.0.0/8", "8.0.0.0/8")
    )
    _, edits = Dispatch(Family.V4).moved([((), render(state).filter_rules)])
    verbs = sorted(line.split()[0] + line.split()[-1] for line in edits["filter"].lines if "FIREWALL" in line)
    assert verbs == ["-ADROP", "-IRETURN", "-IRETURN"]
    # The same DROP stands while endpoints come and go: a blocked client never gets through in between.
    assert set(render(msgspec.structs.replace(state, cluster=targets(1), has_endpoints=True)).filter_rules) < set(
        render(state).filter_rules
    )


def test_an_endpoint_with_affinity_remembers_who_comes() -> None:
    fragment = render(changed(affinity_seconds=60))
    sep = fragment.chains[1]
    assert chain(fragment, sep) == [
        f"-j SET --add-set {sep} src --exist --timeout 60",
        "-p tcp -j DNAT --to-destination 10.180.0.0:80",
    ]


def test_affinity_under_both_policies_shares_the_endpoints_chains() -> None:
    fragment = render(msgspec.structs.replace(LOCAL, affinity_seconds=60))
    assert len(set(fragment.chains)) == len(fragment.chains) == 5
    assert sum(line.startswith(":KUBE-SEP-") for line in fragment.body.splitlines()) == 2


def test_many_endpoints_with_affinity_branch_too() -> None:
    fragment = render(changed(cluster=targets(1000), affinity_seconds=60))
    parts = [name for name in fragment.chains if name.startswith(SVC) and name != SVC]
    assert len(parts) == len(set(parts)) > 10
    assert len(chain(fragment, SVC)) == 1 + 1000 + 16  # the mark, who returns, and 16 parts


@pytest.mark.parametrize(
    ("local", "pods", "strangers"),
    [
        (LocalTraffic(), "", ""),
        (LocalTraffic(LocalKind.SOURCE, "10.0.0.0/8"), "-s 10.0.0.0/8 ", "! -s 10.0.0.0/8 "),
        (LocalTraffic(LocalKind.INTERFACE, "cni0"), "-i cni0 ", "! -i cni0 "),
        (LocalTraffic(LocalKind.PREFIX, "veth"), "-i veth+ ", "! -i veth+ "),
    ],
)
def test_pods_are_known_by_what_the_detector_says(local: LocalTraffic, pods: str, strangers: str) -> None:
    assert pod_matches(local) == (pods, strangers)


@pytest.mark.parametrize("endpoints", [0, 1])
def test_the_longest_names_fit_a_comment_and_stay_apart(endpoints: int) -> None:
    found = []
    for end in "xy":
        name = ServicePortName("n" * 63, "s" * 252 + end, "p" * 63, Protocol.SCTP)
        fragment = render(
            changed(
                name=name,
                cluster=targets(endpoints),
                has_endpoints=bool(endpoints),
                load_balancer_ips=("5.6.7.8",),
                source_ranges=("9.0.0.0/8",),
                node_port=30080,
                health_check_node_port=30081,
            )
        )
        rules = (*nat(fragment), *filtered(fragment))
        comments = [rule.split('"')[1] for rule in rules if '"' in rule]
        assert max(map(len, comments)) <= 255
        found += [rule for rule in rules if '"' in rule]
    assert len(set(found)) == len(found)


def chains_of(fragment: Fragment) -> Chains:
    chains = parse(fragment.text)
    chains[SVC] = [rule for rule in chains[SVC] if "KUBE-MARK-MASQ" not in rule]
    return chains


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 101, 250, 1000, 1601, 5000])
def test_every_endpoint_gets_the_same_share(count: int) -> None:
    found = shares(chains_of(render(changed(cluster=targets(count)))), SVC)
    assert len(found) == count
    assert all(abs(share * count - 1) < PRECISION for share in found.values())


@pytest.mark.parametrize("count", [101, 1000, 5000])
def test_a_large_service_branches(count: int) -> None:
    fragment = render(changed(cluster=targets(count)))
    assert len(set(fragment.chains)) == len(fragment.chains) > 1
    assert max(map(len, chains_of(fragment).values())) <= 101
    assert_well_made(fragment)


def assert_well_made(fragment: Fragment) -> None:
    """Assert that chains have names of their own that the kernel takes, and stand before a rule leads to them."""
    chains = fragment.every_chain
    assert len(set(chains)) == len(chains)
    assert all(len(chain) <= names.MAX_CHAIN_NAME and names.varies("nat", chain) for chain in chains)
    declared = set()
    for line in fragment.text.splitlines():
        if line.startswith(":"):
            declared.add(line[1:].partition(" ")[0])
        else:
            leads_to = line.rpartition("-j ")[2]
            assert line.split()[1] in declared
            assert leads_to in declared or leads_to.startswith(("DNAT", "SET", names.MARK_MASQ))
    assert declared == set(chains)


@pytest.mark.parametrize(
    "name",
    [
        ServicePortName("ns", 'x" -j ACCEPT', "", Protocol.TCP),
        ServicePortName("ns", "x\nCOMMIT", "", Protocol.TCP),
        ServicePortName("ns", "x", "p\n-A INPUT -j ACCEPT", Protocol.TCP),
        ServicePortName("n s", "x", "", Protocol.TCP),
        ServicePortName("", "", "", Protocol.TCP),
    ],
)
def test_a_name_that_could_break_out_is_refused(name: ServicePortName) -> None:
    with pytest.raises(Unrenderable):
        render(changed(name=name))


def test_more_endpoints_than_rules_can_carry_are_refused() -> None:
    most = changed(cluster=STATE.cluster * ENDPOINTS_MAX)
    assert len(render(most).chains) < 36**3
    with pytest.raises(Unrenderable, match="100001 endpoints"):
        render(changed(cluster=STATE.cluster * (ENDPOINTS_MAX + 1)))
    with pytest.raises(Unrenderable, match="10001 endpoints are more than the 10000 that can remember clients"):
        render(changed(cluster=targets(STICKY_MAX + 1), affinity_seconds=60))
