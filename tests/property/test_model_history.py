"""What the model makes of a World depends on what there is now, never on the path taken to it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.claims import Place
from kubeproxy.model.desired import ServiceState, desired
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import node_state
from kubeproxy.model.objects import Service, key_of
from kubeproxy.model.services import is_proxied
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from tests.large_services import SIZES, treated_as_large
from tests.property.category_oracle import expected
from tests.property.runs import LONG, PATIENCE, STEPS, runs
from tests.property.strategies_histories import Cluster, History, histories
from tests.property.strategies_model import KEYS, NODE_NAME, SETTINGS, services

pytestmark = [pytest.mark.unit, PATIENCE]

HISTORIES_OF_MODEL = histories(steps=STEPS)


def lived(history: History) -> tuple[Cluster, World]:
    """Play a history into one World."""
    cluster, world = Cluster(), World()
    for step in history.steps:
        for event in step.events:
            event.happen(cluster).deliver(world)
    return cluster, world


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(HISTORIES_OF_MODEL, st.integers(0, 2 ** len(KEYS) - 1))
def test_a_world_with_a_history_is_as_good_as_new(large: int, history: History, some: int) -> None:
    with treated_as_large(large):
        _is_as_good_as_new(history, some)


def _is_as_good_as_new(history: History, some: int) -> None:
    cluster, world = lived(history)
    for backwards in (False, True):
        fresh = cluster.world(backwards=backwards)
        assert world.rejections() == fresh.rejections()
        assert world.claims.lost == fresh.claims.lost
        for family in Family:
            assert desired(world, history.settings, family) == desired(fresh, history.settings, family)
            assert node_state(world, history.settings, family) == node_state(fresh, history.settings, family)
    owners = _owners(cluster)
    for family in Family:
        _a_part_says_what_the_whole_says(world, history.settings, family, some)
        _categories_are_those_of_the_reference(cluster, world, history.settings, family)
        _every_place_belongs_to_the_first_who_claims_it(cluster, world, history.settings, family, owners)


def _a_part_says_what_the_whole_says(world: World, settings: Settings, family: Family, some: int) -> None:
    keys = [key for place, key in enumerate(KEYS) if some >> place & 1]
    whole = desired(world, settings, family, keys)
    assert desired(world.part(keys), settings, family, keys) == whole
    assert desired(world.part(None), settings, family, keys) == whole
    assert node_state(world.part(keys), settings, family) == node_state(world, settings, family)


def _categories_are_those_of_the_reference(
    cluster: Cluster, world: World, settings: Settings, family: Family
) -> None:
    for name, state in desired(world, settings, family).items():
        service = cluster.services[name.key]
        port = next(p for p in service.ports if (p.name, p.protocol) == (name.port, name.protocol))
        want = expected(cluster, service, port, family, NODE_NAME, is_external=state.is_external)
        found = [each.text for each in state.cluster], [each.text for each in state.local]
        assert (*found, state.has_endpoints) == want, name


def _owners(cluster: Cluster) -> dict[Place, tuple[Any, ...]]:
    """Return who has each place: the first by rank, age and name, found by comparing everybody."""
    claims: dict[Place, list[tuple[Any, ...]]] = {}
    for service in cluster.services.values():
        families = {family_of(ip) for ip in service.cluster_ips}
        if not families or not is_proxied(service):
            continue
        first = {(port.name, port.protocol): port for port in reversed(service.ports)}
        for index, port in enumerate(service.ports):
            if first[port.name, port.protocol] is not port:
                continue  # left out at the door
            own = ServicePortName(service.namespace, service.name, port.name, port.protocol)
            ranked = (service.cluster_ips, service.load_balancer_ips, service.external_ips)
            places = {
                ip: rank
                for rank, ips in reversed(list(enumerate(ranked)))
                for ip in ips
                if family_of(ip) in families
            }
            if port.node_port:
                claims.setdefault(Place("", port.protocol, port.node_port), []).append(
                    (0, service.created, *key_of(service), index, own)
                )
            for ip, rank in places.items():
                claims.setdefault(Place(ip, port.protocol, port.port), []).append(
                    (rank, service.created, *key_of(service), index, own)
                )
    return {place: min(rivals) for place, rivals in claims.items()}


def _every_place_belongs_to_the_first_who_claims_it(
    cluster: Cluster, world: World, settings: Settings, family: Family, owners: dict[Place, tuple[Any, ...]]
) -> None:
    everything = msgspec.structs.replace(settings, allow_external_ips=True)
    for name, state in desired(world, everything, family).items():
        service = cluster.services[name.key]
        port = next(p for p in service.ports if (p.name, p.protocol) == (name.port, name.protocol))
        own = {ip for ip in (state.cluster_ip, *state.external_ips, *state.load_balancer_ips) if ip}
        claimed = {*service.external_ips, *service.load_balancer_ips}
        claimed = {ip for ip in claimed if family_of(ip) is family}
        claimed |= set([ip for ip in service.cluster_ips if family_of(ip) is family][:1])
        assert own == {ip for ip in claimed if owners[Place(ip, name.protocol, port.port)][-1] == name}
        wins = port.node_port and owners[Place("", name.protocol, port.node_port)][-1] == name
        assert state.node_port == (port.node_port if wins else 0)


@runs()
@given(HISTORIES_OF_MODEL)
def test_who_is_not_told_to_be_touched_has_not_changed(history: History) -> None:
    cluster, world = Cluster(), World()
    before: dict[Family, dict[ServicePortName, ServiceState]] = {family: {} for family in Family}
    for step in history.steps:
        for event in step.events:
            touched, node_too = event.happen(cluster).deliver(world)
            for family in Family:
                after = desired(world, history.settings, family)
                if not node_too:
                    changed = {
                        n for n in before[family].keys() | after.keys() if before[family].get(n) != after.get(n)
                    }
                    assert {name.key for name in changed} <= touched, event
                before[family] = after


@runs(200 if LONG else 20)
@given(st.lists(services(), min_size=2, max_size=5, unique_by=key_of), st.randoms(use_true_random=False), SETTINGS)
def test_claims_do_not_depend_on_who_came_first(rivals: list[Service], chance: object, settings: Settings) -> None:
    def told(order: list[Service]) -> tuple[object, ...]:
        world = World()
        for each in order:
            world.apply_services({key_of(each): each})
        return world.rejections(), world.claims.lost, [desired(world, settings, family) for family in Family]

    mixed = list(rivals)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert told(rivals) == told(mixed)
    assert told(rivals) == told(rivals[::-1])
