"""Which endpoints a Service port's traffic goes to: the one place where policy is decided.

Traffic policies, the fallback to terminating endpoints and topology hints live here and nowhere else; backends
see the result only. Source: CategorizeEndpoints of upstream (shared/reference/kube-proxy.md §0).
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from kubeproxy.model.endpoints import PortEndpoint
from kubeproxy.model.objects import Record
from kubeproxy.model.runs import Run, Runs, gathered, in_runs


class Topology(Enum):
    """By which hints ready endpoints are chosen, if by any."""

    NONE = "no topology"
    SAME_NODE = "PreferSameNode"
    SAME_ZONE = "PreferSameZone"


class Where(Record, frozen=True):
    """Where this node is; "" is not known."""

    node: str
    zone: str = ""


class Categories(Record, frozen=True, kw_only=True):
    """The endpoints of one Service port by the kind of traffic that may use them, in the given order."""

    cluster: Sequence[PortEndpoint] = ()
    """For traffic under policy Cluster; empty when no traffic is."""
    local: Sequence[PortEndpoint] = ()
    """For traffic under policy Local, all on this node; empty when no traffic is."""
    has_endpoints: bool = False
    """Whether anybody anywhere could answer: without, a client is refused; with none of its kind, dropped."""
    topology: Topology = Topology.NONE


def categorize(
    endpoints: Sequence[PortEndpoint], where: Where, *, uses_cluster: bool = True, uses_local: bool = False
) -> Categories:
    """Choose among a port's merged endpoints.

    Each category takes its ready endpoints, and when there is none those that still serve while they terminate;
    one that does not serve is never used. Hints count for ready endpoints under policy Cluster only.
    """
    is_short = not in_runs(endpoints)
    if is_short and uses_cluster and not uses_local and _are_plain(endpoints):
        return Categories(cluster=tuple(endpoints), has_endpoints=bool(endpoints))  # nearly every Service
    runs = endpoints.runs if in_runs(endpoints) else (Run(tuple(endpoints)),)
    kinds = [run.derived(_kinds, where) for run in runs]
    topology, cluster = _near(kinds) if uses_cluster else (Topology.NONE, [])
    if uses_cluster and not cluster:
        cluster = _present(each.leaving for each in kinds)
    local: list[Run[PortEndpoint]] = []
    if uses_local:
        local = _present(each.local for each in kinds) or _present(each.local_leaving for each in kinds)
    return Categories(
        cluster=_joined(cluster, is_short=is_short),
        local=_joined(local, is_short=is_short),
        has_endpoints=bool(cluster) or (uses_local and any(each.ready or each.leaving for each in kinds)),
        topology=topology,
    )


def ready_on(endpoints: Sequence[PortEndpoint], node: str) -> tuple[PortEndpoint, ...]:
    """Return a port's ready endpoints on a node."""
    return gathered(endpoints, _ready_on, node)


def _ready_on(endpoints: Sequence[PortEndpoint], node: str) -> tuple[PortEndpoint, ...]:
    return tuple(
        [each for each in endpoints if each.endpoint.conditions.ready and each.endpoint.node_name == node]
    )


class Unused(Enum):
    """Why an endpoint gets nothing of a kind of traffic."""

    NOT_READY = "not ready"
    NOT_SERVING = "terminating, and does not serve any more"
    TERMINATING = "terminating, while others are ready"
    ELSEWHERE = "not on this node, and the policy is Local"
    HINTED_ELSEWHERE = "topology hints give it to others"


def explain(
    endpoints: Sequence[PortEndpoint], where: Where, *, local: bool
) -> tuple[Topology, list[tuple[PortEndpoint, Unused | None]]]:
    """Return for each endpoint why traffic under policy Local (or Cluster) does not use it; None where it does."""
    chosen = categorize(endpoints, where, uses_cluster=not local, uses_local=local)
    used = {each.text for each in (chosen.local if local else chosen.cluster)}
    return chosen.topology, [
        (each, None if each.text in used else _unused(each, where, local=local)) for each in endpoints
    ]


def _unused(each: PortEndpoint, where: Where, *, local: bool) -> Unused:
    conditions = each.endpoint.conditions
    if not conditions.ready and not _is_leaving(each):
        return Unused.NOT_SERVING if conditions.terminating else Unused.NOT_READY
    if local and each.endpoint.node_name != where.node:
        return Unused.ELSEWHERE
    return Unused.HINTED_ELSEWHERE if conditions.ready else Unused.TERMINATING


def _is_leaving(each: PortEndpoint) -> bool:
    conditions = each.endpoint.conditions
    return conditions.serving and conditions.terminating


def _are_plain(endpoints: Sequence[PortEndpoint]) -> bool:
    """Return whether all are ready and none has a hint."""
    for each in endpoints:
        endpoint = each.endpoint
        if not endpoint.conditions.ready or endpoint.hint_zones or endpoint.hint_nodes:
            return False
    return True


Kind = Run[PortEndpoint] | None
"""Those of a kind among some endpoints, if there are any."""


class _Kinds(NamedTuple):
    """Some of a port's endpoints by what can be said of each alone."""

    ready: Kind
    leaving: Kind
    by_node: Kind
    """Ready ones that the hints give this node."""
    by_zone: Kind
    """Ready ones that the hints give this zone."""
    all_by_node: bool
    """Whether each ready one has hints of nodes."""
    all_by_zone: bool
    local: Kind
    """Ready ones on this node."""
    local_leaving: Kind


def _kinds(endpoints: tuple[PortEndpoint, ...], where: Where) -> _Kinds:
    ready = tuple([each for each in endpoints if each.endpoint.conditions.ready])
    leaving = tuple([each for each in endpoints if _is_leaving(each)])
    node, zone = where.node, where.zone
    return _Kinds(
        ready=_some(ready),
        leaving=_some(leaving),
        by_node=_some([each for each in ready if node in each.endpoint.hint_nodes]) if node else None,
        by_zone=_some([each for each in ready if zone in each.endpoint.hint_zones]) if zone else None,
        all_by_node=all(each.endpoint.hint_nodes for each in ready),
        all_by_zone=all(each.endpoint.hint_zones for each in ready),
        local=_some([each for each in ready if each.endpoint.node_name == node]),
        local_leaving=_some([each for each in leaving if each.endpoint.node_name == node]),
    )


def _near(kinds: Sequence[_Kinds]) -> tuple[Topology, list[Run[PortEndpoint]]]:
    """Return those that the hints give this node; all, unless every one has a hint and one of them is for us."""
    by_node = _present(each.by_node for each in kinds)
    if by_node and all(each.all_by_node for each in kinds):
        return Topology.SAME_NODE, by_node
    by_zone = _present(each.by_zone for each in kinds)
    if by_zone and all(each.all_by_zone for each in kinds):
        return Topology.SAME_ZONE, by_zone
    return Topology.NONE, _present(each.ready for each in kinds)


def _some(endpoints: Sequence[PortEndpoint]) -> Kind:
    return Run(tuple(endpoints)) if endpoints else None


def _present(kinds: Iterable[Kind]) -> list[Run[PortEndpoint]]:
    return [each for each in kinds if each is not None]


def _joined(runs: list[Run[PortEndpoint]], *, is_short: bool) -> Sequence[PortEndpoint]:
    """Return endpoints as a list that shares what it can with the one before, or of few as a tuple."""
    return tuple([each for run in runs for each in run.entries]) if is_short else Runs(runs)
