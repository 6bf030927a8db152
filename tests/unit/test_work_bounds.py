"""Work that grows with what one Service has, never with the square of it: comparisons and hashes are counted."""

from collections.abc import Iterator, Sequence

import pytest

from kubeproxy.dataplane.base import Change, Plan
from kubeproxy.dataplane.iptables.dispatch import FEW, FIREWALL, Dispatch, Rule
from kubeproxy.dataplane.iptables.render import Fragment, Renderer
from kubeproxy.dataplane.iptables.script import Script
from kubeproxy.dataplane.iptables.tables import Skeleton
from kubeproxy.dataplane.ipvs.draining import Draining
from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.dataplane.ipvs.part import Entry, Part, Virtual
from kubeproxy.dataplane.ipvs.unions import Unions
from kubeproxy.dataplane.ledger import Ledger
from kubeproxy.kernel.ipvs_types import Destination, Found, Server, ServerKey
from kubeproxy.model import healthchecks, large
from kubeproxy.model.addresses import Family
from kubeproxy.model.admission import Rejection, admissible_service
from kubeproxy.model.desired import ServiceState, Target, Wanted, desired
from kubeproxy.model.endpoints import PortEndpoint, PortKey, merge
from kubeproxy.model.healthchecks import HealthCheck, health_checks
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import node_state
from kubeproxy.model.objects import (
    Endpoint,
    EndpointSlice,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
    SlicePort,
    TrafficPolicy,
)
from kubeproxy.model.runs import Runs, difference
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from tests.counting import Meter

pytestmark = pytest.mark.unit

MANY = 500
EACH = 20
"""So often, at most, is each of many things compared or hashed; with the square it would be 250 times."""

NAME = ServicePortName("default", "web", "", Protocol.TCP)
NODE = node_state(World(), Settings(node_name="n"), Family.V4)
VIP = ServerKey(Protocol.TCP, "192.0.2.1", 80)


def test_rules_in_shared_chains() -> None:
    meter = Meter()

    def rules(changed: int) -> list[Rule]:
        """Return a rule a range, all for one place."""
        return [
            Rule(FIREWALL, meter.text(f"C0000201T0050 -s 10.{i >> 8}.{i & 255}.{int(i == changed)}/32 -j RETURN"))
            for i in range(MANY)
        ]

    old, new = rules(1), rules(2)
    _, edits = Dispatch(Family.V4, {FIREWALL: sorted(rule.entry for rule in old)}).moved([(old, new)])
    assert (edits["filter"].added, edits["filter"].removed) == (2, 2)
    assert meter.count < EACH * MANY


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, MANY])
def test_many_rules_leave_as_few_do(count: int) -> None:
    rules = [Rule(FIREWALL, f"C0000201T0050 -s 10.{i >> 8}.{i & 255}.0/24 -j RETURN") for i in range(MANY)]
    full, _ = Dispatch(Family.V4).moved([((), rules)])
    rest, edits = full.moved([(rules, rules[count:])])
    assert edits["filter"].removed == count
    empty, edits = rest.moved([(rules[count:], ())])
    assert (edits["filter"].removed, edits["filter"].added) == (MANY - count, 0)
    assert list(empty.moved([((), rules)])[0].moved([(rules, ())])[1]["filter"].lines) == [
        f"-D {rule}\n" for rule in sorted(map(str, rules))
    ]


def test_rules_leave_from_the_front_of_their_chain() -> None:
    rules = [Rule(FIREWALL, f"C0000201T0050 -s 10.{i >> 8}.{i & 255}.0/24 -j RETURN") for i in range(MANY)]
    full, come = Dispatch(Family.V4).moved([((), [*rules, Rule(FIREWALL, "C0000201T0050 -j DROP")])])
    _, gone = full.moved([(rules, ())])
    chain: list[str] = []
    passed = 0
    for line in come["filter"].lines + gone["filter"].lines:
        verb, _, rule = line.strip().split(" ", 2)
        if verb == "-D":
            at = chain.index(rule)
            passed += at
            del chain[at]
        else:
            chain.insert(0 if verb == "-I" else len(chain), rule)
    assert chain == ["-j DROP"]
    assert passed < MANY


def test_own_chains_of_a_port() -> None:
    meter = Meter()
    old, new = (ServiceState(name=NAME, cluster_ip="", port=port) for port in (8080, 8081))

    class Sticky(Renderer):
        """Gives each of many endpoints a chain, one of them another."""

        def render(self, state: ServiceState) -> Fragment:
            chains = [meter.text(f"KUBE-SEP-{i if i else state.port}") for i in range(MANY)]
            return Fragment(
                chains=tuple(chains), body=f":KUBE-SEP-{state.port} - [0:0]\n", nat_rules=(), filter_rules=()
            )

    script = Script(
        Plan(False, NODE, iter([Change(NAME, old, new)])),
        Sticky(NODE),
        Skeleton(NODE, drop_invalid=False, counters=frozenset()),
        Dispatch(Family.V4),
        pytest.fail,
    )
    text = "".join(script.pieces())
    assert [line for line in text.splitlines() if line.startswith("-X")] == ["-X KUBE-SEP-8080"]
    assert meter.count < EACH * MANY


def test_source_ranges_of_a_refused_service() -> None:
    ips = tuple(f"192.0.2.{i}" for i in range(100))
    state = ServiceState(
        name=NAME,
        cluster_ip="",
        port=80,
        load_balancer_ips=ips,
        source_ranges=("10.0.0.0/8",),
        node_in_ranges=True,
    )
    found = [rule.text for rule in Renderer(NODE).render(state).filter_rules if rule.shared is FIREWALL]
    # Each address admits the range, and the node as it speaks to that address; and drops the rest.
    assert len(found) == 3 * len(ips)
    assert sum(f"-s {ip}/32 -d {ip}/32 " in rule for ip in ips for rule in found) == len(ips)


def part(meter: Meter, changed: int = 0) -> Part:
    """Return a load balancer's address that many ranges may come through."""
    guard: list[Entry] = [
        (Set.ADMITTED, (VIP.address, Protocol.TCP, VIP.port, meter.text(f"10.{i >> 8}.{i & 255}.0/24")))
        for i in range(changed, MANY + changed)
    ]
    return Part(virtuals=(Virtual(Server(VIP), (), (Set.MASQUERADE,), tuple(guard)),))


def test_source_ranges_that_change_in_ipvs_mode() -> None:
    meter = Meter()
    unions = Unions()
    unions.open({NAME: part(meter)})
    meter.count = 0
    delta = unions.apply({NAME: part(meter, changed=1)})
    assert (len(delta.added), len(delta.removed)) == (1, 1)
    assert meter.count < EACH * MANY


@pytest.mark.parametrize("is_change", [False, True])
def test_source_ranges_that_are_asked_for_one_by_one(is_change: bool) -> None:
    meter = Meter()
    unions = Unions()
    unions.open({NAME: part(meter, changed=7)} if is_change else {NAME: part(meter)})
    if is_change:
        unions.apply({NAME: part(meter)})
    meter.count = 0
    asked = part(meter).virtuals[0]
    assert all(unions.has_entry(*entry) for entry in asked.entries)
    assert meter.count < EACH * MANY
    assert not unions.has_entry(Set.ADMITTED, (VIP.address, Protocol.TCP, VIP.port, "192.0.2.0/24"))
    assert not unions.has_entry(Set.MASQUERADE, (VIP.address, Protocol.UDP, VIP.port))
    assert not unions.has_entry(Set.NO_LOCAL, (VIP.address, Protocol.TCP, VIP.port))
    unions.apply({NAME: None})
    assert not any(unions.has_entry(*entry) for entry in asked.entries)


def test_destinations_that_have_drained() -> None:
    meter = Meter()
    draining = Draining()
    places = [(meter.text(f"10.244.{i >> 8}.{i & 255}"), 80) for i in range(MANY)]
    draining.note(VIP, places, None)
    found = [Found(Destination(meter.text(address), port, 0)) for address, port in places]
    commands, _ = draining.looked(VIP, found)
    assert len(commands) == MANY
    assert VIP not in draining.spots
    assert meter.count < EACH * MANY


def test_ports_of_a_service_that_goes() -> None:
    meter = Meter()
    ledger = Ledger()
    names = [ServicePortName("default", "web", meter.text(f"p{i}"), Protocol.TCP) for i in range(MANY)]
    states = [ServiceState(name=name, cluster_ip="", port=80) for name in names]
    for state in states:
        ledger.enter(Change(state.name, None, state))
    plan = ledger.plan(Wanted(NODE, ()), {NAME.key}, is_known=True)
    assert plan is not None
    assert [change.name for change in plan.changes] == names
    for state in reversed(states):
        ledger.enter(Change(state.name, state, None))
    assert not ledger.states
    assert meter.count < EACH * MANY


def test_ports_that_have_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def equal(one: object, other: object) -> bool:
        nonlocal compared
        compared += 1
        return str(one) == str(other)

    monkeypatch.setattr(Rejection, "__eq__", equal)
    ports = tuple(ServicePort(name="a", port=port) for port in (*range(1, MANY + 1), MANY))
    service, rejections = admissible_service(Service(namespace="default", name="web", ports=ports))
    assert service.ports == ports[:1]
    assert len(rejections) == MANY - 1
    assert compared < EACH * MANY


class Looks(tuple[Endpoint, ...]):
    """Endpoints that count for all together how many were looked at."""

    count = 0

    def __iter__(self) -> Iterator[Endpoint]:
        Looks.count += len(self)
        return super().__iter__()


WEB = ("default", "web")


def crowd(number: int, *more: str, ports: int = 1) -> EndpointSlice:
    """Return one of a large Service's slices, with a hundred endpoints and ``more``."""
    own = [f"10.0.{number}.{i}" for i in range(1, 101)]
    return EndpointSlice(
        namespace="default",
        name=f"web-{number}",
        service="web",
        ports=tuple([SlicePort(name=f"p{port}", port=1000 + port) for port in range(ports)]),
        endpoints=Looks([Endpoint(address=address) for address in (*own, *more)]),
    )


def applied(world: World, *slices: EndpointSlice) -> int:
    """Apply slices; return how many endpoints were looked at."""
    Looks.count = 0
    world.apply_slices({("default", each.name): each for each in slices})
    return Looks.count


def test_endpoints_that_two_slices_name() -> None:
    """A changed slice of a Service of many ports, that has an endpoint which another slice has too."""
    world = World()
    applied(world, *[crowd(number, ports=15) for number in range(10)])
    for more in (("10.0.7.5",), ("10.0.7.5", "10.9.0.1"), ()):  # it comes to be named twice, is, and is no longer
        assert applied(world, crowd(3, *more, ports=15)) < 3 * 1000
        kept, anew = world.endpoints_of(WEB, Family.V4), merge(world.slices_of(WEB), Family.V4)
        assert all(isinstance(each, Runs) for each in kept.values())
        assert {port: list(found) for port, found in kept.items()} == anew


def test_a_service_of_very_many_endpoints_and_ports_is_merged_for_whom_it_concerns() -> None:
    world = World()
    assert applied(world, *[crowd(number, ports=50) for number in range(10)]) < 4 * 1000
    assert applied(world, crowd(3, "10.9.0.1", ports=50)) < 10 * 100
    assert world.endpoints_of(WEB, Family.V4) == merge(world.slices_of(WEB), Family.V4)


def test_a_health_check_of_a_service_of_very_many_endpoints_and_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop, where a merge would be all endpoints times all ports."""
    web = Service(
        namespace="default",
        name="web",
        type=ServiceType.LOAD_BALANCER,
        cluster_ips=("10.96.0.1",),
        external_policy=TrafficPolicy.LOCAL,
        health_check_node_port=31000,
    )
    world, merged = World(), []

    def counting(slices: Sequence[EndpointSlice], family: Family) -> dict[PortKey, list[PortEndpoint]]:
        merged.extend([len(each.endpoints) for each in slices])
        return merge(slices, family)

    monkeypatch.setattr(healthchecks, "merge", counting)
    monkeypatch.setattr(large, "merge", None)
    world.apply_services({WEB: web})
    # One moves to this node from another.
    moving = EndpointSlice(
        namespace="default",
        name="z",
        service="web",
        ports=crowd(0, ports=50).ports,
        endpoints=(Endpoint(address="10.0.3.1", node_name="n"), Endpoint(address="10.9.0.1", node_name="n")),
    )
    applied(world, moving, *[crowd(number, ports=50) for number in range(10)])
    Looks.count = 0
    assert health_checks(world, "n", Family.V4, [WEB]) == {WEB: HealthCheck(port=31000, endpoints=2)}
    assert Looks.count <= 3 * 1000
    assert sum(merged) == 2  # both entries of the one


def test_a_large_service_that_is_among_its_own_endpoints() -> None:
    def targets() -> Sequence[Target]:
        return next(iter(desired(world, Settings(node_name="n"), Family.V4, [WEB]).values())).cluster

    world, port = World(), ServicePort(name="p0", port=80)
    web = Service(namespace="default", name="web", cluster_ips=("10.96.0.1",), ports=(port,))
    world.apply_services({WEB: web})
    applied(world, crowd(0, "10.96.0.1"), *[crowd(number) for number in range(1, 10)])
    before = targets()
    assert applied(world, crowd(3, "10.9.0.1")) < 10 * 100
    after = targets()
    gone, come = difference(before, after)
    assert (set(gone), set(come)) == (set(), {"10.9.0.1:1000"})
    assert isinstance(before, Runs)
    assert isinstance(after, Runs)
    assert len({*after.runs} - {*before.runs}) <= 2
    assert len(after) == 1001
    assert world.loops_of(WEB) == ("10.96.0.1",)
    applied(world, crowd(0))
    assert world.loops_of(WEB) == ()
    assert len(targets()) == 1001
