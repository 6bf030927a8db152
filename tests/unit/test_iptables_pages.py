"""A large Service's endpoints in iptables mode: all have the same share, and a change concerns few of them."""

from collections.abc import Sequence
from itertools import accumulate

import msgspec
import pytest

from kubeproxy.dataplane.iptables import names, pages
from kubeproxy.dataplane.iptables.choose import FAN_OUT, LINEAR_MAX
from kubeproxy.dataplane.iptables.locate import IptablesLocator
from kubeproxy.dataplane.iptables.touched import given_up, touched
from kubeproxy.dataplane.locate import Spot, Subject
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.node import node_state
from kubeproxy.model.runs import MOST, Run, Runs
from kubeproxy.model.world import World
from tests.property.saved_tables import parse
from tests.property.shares import PRECISION, shares
from tests.unit.test_iptables_render import (
    SETTINGS,
    STATE,
    SVC,
    assert_well_made,
    chains_of,
    changed,
    render,
    target,
)

pytestmark = pytest.mark.unit

SVL = SVC.replace(names.SERVICE_PREFIX, names.LOCAL_PREFIX)


def endpoint(number: int) -> Target:
    address = f"10.180.{number >> 8:03}.{number & 255:03}"  # in an order that is theirs
    return target(address, f"{address}:80")


def in_runs_of(sizes: Sequence[int], first: int = 0) -> Runs[Target]:
    starts = accumulate(sizes, initial=first)
    return Runs(Run(tuple(map(endpoint, range(at, at + size)))) for at, size in zip(starts, sizes, strict=False))


def many(count: int) -> Runs[Target]:
    return Runs.of(list(map(endpoint, range(count))))


@pytest.mark.parametrize(
    "runs",
    [
        many(LINEAR_MAX),
        many(LINEAR_MAX + 1),
        many(MOST),
        many(MOST + 1),
        many(1000),
        many(10_000),
        in_runs_of([1] * 300),
        in_runs_of([200, 1, 26, 25, 255, 1] * 4),
        in_runs_of([128] * FAN_OUT),
        in_runs_of([128] * FAN_OUT + [1]),
    ],
    ids=lambda runs: f"{len(runs)} in {len(runs.runs)}",
)
def test_every_endpoint_gets_the_same_share(runs: Runs[Target]) -> None:
    fragment = render(changed(cluster=runs))
    found = shares(chains_of(fragment), SVC)
    assert set(found) == {f"-p tcp -j DNAT --to-destination {each.text}" for each in runs}
    assert all(abs(share * len(runs) - 1) < PRECISION for share in found.values())
    assert_well_made(fragment)


@pytest.mark.parametrize("count", [1000, 10_000, 30_000])
def test_a_connection_draws_a_few_random_numbers(count: int) -> None:
    chains = chains_of(render(changed(cluster=many(count))))

    def draws(chain: str) -> float:
        """Return how many a connection draws on average, from a chain on."""
        found, left = 0.0, 1.0
        for rule in chains[chain]:
            here = left
            if "--probability" in rule:
                found += left
                here *= float(rule.split("--probability ")[1].split()[0])
            target = rule.split()[-1]
            found += here * draws(target) if target in chains else 0
            left -= here
        return found

    assert draws(SVC) < 32


def test_each_policy_has_a_tree_of_its_own() -> None:
    fragment = render(changed(cluster=many(1000), local=many(300), external_local=True, node_port=30080))
    assert_well_made(fragment)
    chains = chains_of(fragment)
    assert [len(shares(chains, each)) for each in (SVC, SVL)] == [1000, 300]


def test_trace_names_the_chain_and_lists_no_endpoint() -> None:
    node, state = node_state(World(), SETTINGS, Family.V4), changed(cluster=many(1000))
    found = IptablesLocator().locate(node, state, Spot(subject=Subject.ENDPOINTS))
    assert found == f"nat {SVC} and {len(render(state).every_chain) - 1} more"
    lines = IptablesLocator().objects(node, state)
    assert not [line for line in lines if "DNAT" in line]
    assert sum(f"-j {names.SERVICE_PREFIX}" in line for line in lines) == len(render(state).every_chain)


def step(before: ServiceState, after: ServiceState) -> tuple[list[str], list[str]]:
    """Return which chains a change writes and gives up, having checked that it leads to what is wanted."""
    old, new = render(before), render(after)
    text, gone = touched(old, new), given_up(old, new)
    assert text.count("\n-A ") + text.startswith("-A ") == sum(map(len, parse(text).values()))
    stands = {**parse(old.text), **parse(text)}
    assert {chain: rules for chain, rules in stands.items() if chain not in gone} == parse(new.text)
    assert len(set(gone)) == len(gone)
    return list(parse(text)), gone


ALL = in_runs_of([128] * 32)
BEFORE = changed(cluster=ALL)


def with_endpoints(targets: Sequence[Target]) -> ServiceState:
    return msgspec.structs.replace(BEFORE, cluster=targets)


def beside(number: int) -> Target:
    """Return an endpoint between one and the next."""
    return msgspec.structs.replace(endpoint(number), text=f"{endpoint(number).address}:90")


def test_an_endpoint_in_place_of_its_neighbour_writes_one_page() -> None:
    other = beside(1000)
    written, gone = step(BEFORE, with_endpoints(ALL.replaced({endpoint(1000).text: None, other.text: other})))
    assert gone == []
    assert len(written) == 1 + 6  # a run's chain, and its rows
    assert len({each[:-3] for each in written}) == 1


def test_another_first_endpoint_gives_a_page_other_names() -> None:
    other = beside(1024)
    written, gone = step(BEFORE, with_endpoints(ALL.replaced({endpoint(1024).text: None, other.text: other})))
    assert len(gone) == 7
    assert len(written) == 7 + 1
    assert written[-1] == names.part_chain(SVC, 1)  # which leads to it


def test_runs_divided_otherwise_are_told_by_what_they_say() -> None:
    assert step(BEFORE, with_endpoints(in_runs_of([128] * 32))) == ([], [])
    written, gone = step(BEFORE, with_endpoints(in_runs_of([128] * 20 + [127, 129] + [128] * 10)))
    assert len({each[:-3] for each in written if not each.startswith(SVC)}) == 2
    assert len(gone) == 7


def test_an_endpoint_more_writes_its_page_and_the_shares_above_it() -> None:
    more = beside(1000)
    written, gone = step(BEFORE, with_endpoints(ALL.replaced({more.text: more})))
    assert gone == []
    assert set(written[-2:]) == {SVC, names.part_chain(SVC, 1)}
    assert len({each[:-3] for each in written[:-2]}) == 1


def test_pages_are_made_once() -> None:
    made = render(BEFORE).pages
    after = ALL.replaced({endpoint(1000).text: None, endpoint(5000).text: endpoint(5000)})
    again = render(with_endpoints(after)).pages
    assert sum(one is two for one, two in zip(made, again, strict=True)) == len(made) - 2


@pytest.mark.parametrize("few", [STATE.cluster, tuple(map(endpoint, range(50))), many(50), in_runs_of([1] * 99)])
@pytest.mark.parametrize("affinity", [0, 60])
def test_a_service_that_becomes_large_and_small_again(few: Sequence[Target], affinity: int) -> None:
    small = changed(cluster=few, affinity_seconds=affinity)
    as_a_tuple = msgspec.structs.replace(BEFORE, cluster=tuple(ALL))
    for large in (BEFORE, as_a_tuple, with_endpoints(in_runs_of([3] * 100, first=7))):
        assert SVC in step(small, large)[0]
        assert step(large, small)[0][-1:] == [SVC] or affinity
        assert SVC in step(large, BEFORE if large is not BEFORE else as_a_tuple)[0]


def test_runs_that_are_many_are_one_level_of_groups() -> None:
    chains = parse(render(changed(cluster=in_runs_of([1] * 1000))).text)
    assert len(chains[SVC]) == 1 + FAN_OUT  # and the mark
    assert len(chains) == 1 + FAN_OUT + 1000
    assert pages.ROW * FAN_OUT >= MOST
