"""The kernel's state depends on the World as it is now, never on the path taken to it.

A history of batches (with failures, restarts and external flushes strewn in) is played against the model
kernel, which refuses dangling jumps and deletions of chains in use; afterwards the kernel must hold what a
fresh agent writes for the last World into an empty one, and foreign rules must stand.
"""

import contextlib
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.fake import FakeSets, FakeTables
from kubeproxy.dataplane.iptables.names import SERVICE_CHAINS, port_hash
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired, wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Protocol, Service, ServicePort
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint, endpoint_slice

pytestmark = pytest.mark.unit

LONG = bool(os.environ.get("KUBEPROXY_LONG"))
CHOSEN = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))
FOREIGN = ("POSTROUTING", "-s 172.17.0.0/16 -j MASQUERADE")

NAMES = [f"s{i}" for i in range(4)]
PORTS = [("http", Protocol.TCP, 80), ("dns", Protocol.UDP, 53), ("dns", Protocol.TCP, 53), ("x", Protocol.SCTP, 9)]


@st.composite
def a_service(draw: st.DrawFn) -> Service:
    index = draw(st.integers(0, len(NAMES) - 1))
    chosen = draw(st.lists(st.sampled_from(PORTS), unique=True, min_size=1))
    # Every Service has addresses and node ports of its own, as the API server sees to.
    ports = tuple(
        ServicePort(
            name=name,
            protocol=protocol,
            port=number,
            node_port=draw(st.sampled_from([0, 30000 + index * 10 + PORTS.index((name, protocol, number))])),
        )
        for name, protocol, number in chosen
    )
    return Service(
        namespace="ns",
        name=NAMES[index],
        headless=draw(st.integers(0, 9)) == 0,
        cluster_ips=(f"10.96.0.{index + draw(st.sampled_from([0, 100]))}",),
        ports=ports,
        external_ips=draw(st.sampled_from([(), (f"1.2.3.{index}",), (f"1.2.3.{index}", f"1.2.4.{index}")])),
        load_balancer_ips=draw(st.sampled_from([(), (f"5.6.7.{index}",), (f"1.2.3.{index}",)])),
        source_ranges=draw(st.sampled_from([(), ("9.0.0.0/8",), ("0.0.0.0/0",)])),
        session_affinity=draw(st.booleans()),
        affinity_seconds=draw(st.sampled_from([10800, 60])),
    )


@st.composite
def a_slice(draw: st.DrawFn) -> EndpointSlice:
    name = draw(st.sampled_from(NAMES))
    hosts = draw(st.lists(st.integers(1, 6), unique=True, max_size=4))
    crowd = range(10, 10 + draw(st.sampled_from([0, 0, 0, 120])))
    endpoints = [
        endpoint(f"10.244.0.{i}", node=f"node{i % 3}" if i % 4 else "", ready=draw(st.booleans())) for i in hosts
    ] + [endpoint(f"10.244.1.{i}") for i in crowd]
    ports = ",".join(f"{port}={number}/{protocol}" for port, protocol, number in PORTS)
    return endpoint_slice(f"ns/{name}", ports, endpoints, suffix=draw(st.sampled_from("ab")))


Event = Service | EndpointSlice | tuple[str, str]
EVENTS: st.SearchStrategy[Event] = st.one_of(
    a_service(),
    a_slice(),
    st.tuples(st.just("delete service"), st.sampled_from(NAMES)),
    st.tuples(st.just("delete slice"), st.sampled_from([f"{name}-{suffix}" for name in NAMES for suffix in "ab"])),
)
STEPS = st.lists(
    st.tuples(
        st.lists(EVENTS, max_size=4),
        st.sampled_from(["sync"] * 6 + ["fail", "restart", "flush", "surprise", "skip"]),
    ),
    max_size=25 if LONG else 8,
)


class Agent:
    def __init__(self) -> None:
        self.world = World()
        self.sets = FakeSets()
        self.tables = FakeTables(self.sets)
        self.touched: set[Key] = set()
        self.restart()

    def restart(self) -> None:
        self.backend = IptablesBackend(self.tables, self.sets, FakeSysctls(), Family.V4)

    def take(self, event: Event) -> None:
        match event:
            case ("delete service", name):
                self.touched |= self.world.apply_services({("ns", name): None})
            case ("delete slice", name):
                self.touched |= self.world.apply_slices({("ns", name): None})
            case Service():
                self.touched |= self.world.apply_services({(event.namespace, event.name): event})
            case EndpointSlice():
                self.touched |= self.world.apply_slices({(event.namespace, event.name): event})

    def sync(self) -> None:
        full = self.backend.needs_full
        scope, self.touched = (None if full else self.touched), set()
        plan = self.backend.diff(wanted(self.world, CHOSEN, Family.V4, scope), scope)
        if plan is not None:
            self.backend.apply(plan)

    def state(self) -> object:
        """Return the kernel's state; rules of shared chains do not depend on each other, but the last."""
        tables = {
            table: {
                chain: rules
                if chain.startswith(SERVICE_CHAINS) or not chain.startswith("KUBE-")
                else sorted(rules)
                for chain, rules in chains.items()
            }
            for table, chains in self.tables.tables.items()
        }
        return tables, self.sets.sets, self.tables.tables["nat"]["KUBE-SERVICES"][-1:]


def play(agent: Agent, steps: list[tuple[list[Event], str]]) -> None:
    for events, how in steps:
        for event in events:
            agent.take(event)
        if how == "skip":
            continue
        if how == "restart":
            agent.restart()
        elif how == "flush":
            agent.tables.flush("filter")
            agent.backend.observe()
        elif how == "surprise":  # a change meets tables that were flushed since the last look
            agent.tables.flush("nat")
            agent.tables.tables["nat"][FOREIGN[0]].append(FOREIGN[1])
            with contextlib.suppress(SyncFailed):
                agent.sync()
            agent.backend.observe()
        elif how == "fail":
            agent.tables.fail_next = "busy"
            try:
                agent.sync()
            except SyncFailed:
                continue
            agent.tables.fail_next = ""
        agent.sync()


@settings(max_examples=1000 if LONG else 60, deadline=None)
@given(STEPS)
def test_any_history_leads_where_a_fresh_start_leads(steps: list[tuple[list[Event], str]]) -> None:
    agent = Agent()
    agent.tables.tables["nat"][FOREIGN[0]].append(FOREIGN[1])
    play(agent, steps)
    agent.sync()

    fresh = Agent()
    fresh.tables.tables["nat"][FOREIGN[0]].append(FOREIGN[1])
    fresh.world = agent.world
    fresh.sync()
    assert agent.state() == fresh.state()

    agent.backend.cleanup()
    assert agent.tables.tables["nat"] == {"PREROUTING": [], "INPUT": [], "OUTPUT": [], FOREIGN[0]: [FOREIGN[1]]}
    assert agent.sets.sets == {}


@settings(max_examples=1000 if LONG else 60, deadline=None)
@given(STEPS, st.lists(EVENTS, min_size=1, max_size=3))
def test_a_change_names_only_chains_of_services_that_changed(
    steps: list[tuple[list[Event], str]], last: list[Event]
) -> None:
    agent = Agent()
    play(agent, steps)
    agent.sync()
    before = desired(agent.world, CHOSEN, Family.V4)
    for event in last:
        agent.take(event)
    after = desired(agent.world, CHOSEN, Family.V4)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    count = len(agent.tables.restored)
    agent.sync()
    assert len(agent.tables.restored) == count + bool(changed)
    if changed:
        text = agent.tables.restored[-1]
        untouched = {port_hash(name) for name in after.keys() - changed}
        assert not any(each in text for each in untouched)
        assert ":KUBE-SERVICES" not in text


@settings(max_examples=200 if LONG else 50, deadline=None)
@given(st.lists(EVENTS, max_size=10))
def test_there_and_back_again_costs_nothing(events: list[Event]) -> None:
    agent = Agent()
    for event in events:
        agent.take(event)
    agent.sync()
    restored = len(agent.tables.restored)
    for key, service in list(agent.world.services.items()):
        other = msgspec.structs.replace(service, affinity_seconds=1, session_affinity=True)
        agent.touched |= agent.world.apply_services({key: other})
        agent.touched |= agent.world.apply_services({key: service})
    agent.sync()
    assert len(agent.tables.restored) == restored
