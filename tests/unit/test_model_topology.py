"""Which endpoints traffic of each policy gets: upstream's CategorizeEndpoints cases in our own words."""

import pytest

from kubeproxy.model.endpoints import PortEndpoint
from kubeproxy.model.objects import Conditions, Endpoint
from kubeproxy.model.runs import Run, Runs
from kubeproxy.model.topology import Topology, Where, categorize

pytestmark = pytest.mark.unit

HERE = Where("node1", "zone-a")


def parse(text: str) -> PortEndpoint:
    """Read `name@node`, then any of: leaving (serves, terminates), gone (terminates), unready, z:zone, n:node."""
    head, *words = text.split()
    name, _, node = head.partition("@")
    conditions = Conditions(
        ready=not {"leaving", "gone", "unready"} & set(words),
        serving=not {"gone", "unready"} & set(words),
        terminating=bool({"leaving", "gone"} & set(words)),
    )
    hints = {kind: tuple(word[2:] for word in words if word.startswith(f"{kind}:")) for kind in "zn"}
    endpoint = Endpoint(
        address="10.0.0.1", conditions=conditions, node_name=node, hint_zones=hints["z"], hint_nodes=hints["n"]
    )
    return PortEndpoint(name, 80, endpoint)


CASES = [
    ("nobody", [], "", "", False),
    ("ready ones", ["a@node1", "b@node2"], "a b", "a", True),
    ("an unready one is not used", ["a@node1 unready", "b@node2"], "b", "", True),
    ("none is ready", ["a@node1 unready"], "", "", False),
    ("one that leaves is spared while others are ready", ["a@node1 leaving", "b@node1"], "b", "b", True),
    ("those that leave serve when nobody is ready", ["a@node1 leaving", "b@node2 leaving"], "a b", "a", True),
    ("each category falls back by itself", ["a@node1 leaving", "b@node2"], "b", "a", True),
    ("nobody here, but elsewhere", ["b@node2"], "b", "", True),
    ("one elsewhere leaves", ["b@node2 leaving"], "b", "", True),
    ("one that terminates without serving is never used", ["a@node1 gone", "b@node2 gone"], "", "", False),
    ("an endpoint without node is on no node", ["a"], "a", "", True),
    ("hints for our zone", ["a@node1 z:zone-a", "b@node2 z:zone-b"], "a", "a", True),
    ("several hints at one endpoint", ["a@node2 z:zone-a z:zone-b", "b@node2 z:zone-b"], "a", "", True),
    ("a hint is missing", ["a@node1 z:zone-a", "b@node2"], "a b", "a", True),
    ("no hint is for us", ["a@node1 z:zone-c", "b@node2 z:zone-b"], "a b", "a", True),
    ("hints of unready ones do not count", ["a@node2 z:zone-a", "b@node2 unready"], "a", "", True),
    ("only the unready one is in our zone", ["a@node2 unready z:zone-a", "b@node2 z:zone-b"], "b", "", True),
    ("hints by node", ["a@node1 n:node1", "b@node2 n:node2"], "a", "a", True),
    ("hints by node come before zones", ["a@node1 n:node1 z:zone-b", "b@node2 n:node2 z:zone-a"], "a", "a", True),
    ("no node hint for us, but a zone", ["a@node2 n:node2 z:zone-a", "b@node3 n:node3 z:zone-b"], "a", "", True),
    ("the fallback takes no hints", ["a@node2 leaving z:zone-a", "b@node2 leaving z:zone-b"], "a b", "", True),
    ("Local takes no hints", ["a@node1 z:zone-b", "b@node2 z:zone-a"], "b", "a", True),
]
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("endpoints", "cluster", "local", "has"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_both_policies(endpoints: list[str], cluster: str, local: str, has: bool, large: bool) -> None:
    parsed = [parse(text) for text in endpoints]
    given = Runs([Run((each,)) for each in parsed]) if large else parsed
    found = categorize(given, HERE, uses_cluster=True, uses_local=True)
    assert isinstance(found.cluster, Runs) is large
    assert " ".join(each.text for each in found.cluster) == cluster
    assert " ".join(each.text for each in found.local) == local
    assert found.has_endpoints == has


def test_a_policy_that_nobody_uses_has_nobody() -> None:
    both = [parse("a@node1"), parse("b@node2")]
    only_local = categorize(both, HERE, uses_cluster=False, uses_local=True)
    assert ([e.text for e in only_local.local], only_local.cluster) == (["a"], ())
    assert not categorize([parse("b@node2 gone")], HERE, uses_cluster=False, uses_local=True).has_endpoints
    assert categorize([parse("b@node2 leaving")], HERE, uses_cluster=False, uses_local=True).has_endpoints
    assert categorize(both, HERE).local == ()


def test_without_a_zone_only_the_node_counts() -> None:
    hinted = [parse("a@node1 z:zone-a"), parse("b@node2 z:zone-b")]
    assert categorize(hinted, Where("node1")).topology is Topology.NONE
    assert categorize(hinted, HERE).topology is Topology.SAME_ZONE
