"""Histories in iptables mode, in each flavour, against the real kernel (`histories_bed.py`)."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import ServiceCIDR, TrafficPolicy, key_of, name_of
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service
from kubeproxy.trace.verdict import Outcome
from tests.large_services import SIZES, treated_as_large
from tests.netns.drawn_packets import ask, questions
from tests.netns.histories_bed import Stage, clean, some_packets
from tests.netns.lone_namespace import LoneNamespace
from tests.netns.real_kernel import RealKernel
from tests.property.agent_bed import Agent, fresh, live
from tests.property.door_bed import Written, agent_with_good_service, check, hear_hostile
from tests.property.runs import HISTORIES, LONG, PATIENCE, runs, shrinks_for
from tests.property.strategies_histories import Batch, History, histories
from tests.property.strategies_hostile import hostile_objects
from tests.scenarios.lab import Lab

pytestmark = [pytest.mark.netns, PATIENCE]

SHRINK_SECONDS = 30


@pytest.mark.parametrize("flavour", list(Flavour))
def test_state_and_packets_are_those_of_the_last_world(
    place: Lab, empty: LoneNamespace, crowd: ThreadPoolExecutor, flavour: Flavour
) -> None:
    node, scratch = RealKernel(partial(place.run, "node"), flavour), RealKernel(empty.run, flavour)
    stage = Stage(place, crowd, node, scratch, live, fresh, some_packets)

    @runs(HISTORIES if LONG else HISTORIES // len(Flavour))
    @given(histories(steps=4), st.sampled_from(range(1000)), st.sampled_from(SIZES))
    @shrinks_for(SHRINK_SECONDS)
    def check(history: History, seed: int, large: int) -> None:
        with treated_as_large(large):
            stage.compare(history, seed)

    check()


@pytest.mark.parametrize("flavour", list(Flavour))
def test_hostile_objects_do_not_stop_the_others(place: Lab, empty: LoneNamespace, flavour: Flavour) -> None:
    node, scratch = RealKernel(partial(place.run, "node"), flavour), RealKernel(empty.run, flavour)
    alone = agent_with_good_service(scratch)

    @runs(HISTORIES if LONG else 5)
    @given(st.lists(hostile_objects(), min_size=2, max_size=12))
    @shrinks_for(SHRINK_SECONDS)
    def test(written: list[Written]) -> None:
        with clean(node):
            agent = agent_with_good_service(node)
            hear_hostile(agent, written)
            check(agent, alone)
            agent.cleanup()

    test()
    alone.cleanup()


@pytest.mark.parametrize("flavour", list(Flavour))
def test_an_external_ip_among_the_cluster_ips_is_refused_as_its_service_says(
    place: Lab, crowd: ThreadPoolExecutor, flavour: Flavour
) -> None:
    """One has an address that no Service got, one another's cluster IP; the long run drew the first."""
    given_away = [
        service("a", "10.96.2.2", "80", external_ips=("10.96.2.1",)),
        service("b", "10.96.2.5", "80"),
        service("c", "10.96.2.3", "81", external_ips=("10.96.2.5",), external_policy=TrafficPolicy.LOCAL),
    ]
    elsewhere = endpoint_slice("c", "81>80", ["10.244.1.11@node2"])
    cidr = ServiceCIDR(name="kubernetes", cidrs=("10.96.0.0/16",))
    node = RealKernel(partial(place.run, "node"), flavour)
    with clean(node):
        node.forget_flows()
        agent = Agent(node, Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",)))
        agent.hear(
            Batch(
                services={key_of(each): each for each in given_away},
                slices={key_of(elsewhere): elsewhere},
                cidrs={name_of(cidr): cidr},
            )
        )
        agent.settle()
        asked = questions(agent.world, agent.settings, Family.V4, 0, 200)
        met = {each.packet.destination: each.verdict.outcome for each in asked if each.client == "outside"}
        assert {met["10.96.2.1"], met["10.96.2.5"]} <= {Outcome.REFUSED, Outcome.DROPPED}
        assert not [each for each in crowd.map(partial(ask, place), asked) if each]
        agent.cleanup()
