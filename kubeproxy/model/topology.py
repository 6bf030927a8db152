"""Which endpoints a Service port's traffic goes to: the one place where policy is decided.

Traffic policies, the fallback to terminating endpoints and topology hints live here and nowhere else; backends
see the result only. Source: CategorizeEndpoints of upstream (shared/reference/kube-proxy.md §0).
"""

from collections.abc import Callable, Sequence
from enum import Enum

from kubeproxy.model.endpoints import PortEndpoint
from kubeproxy.model.objects import Record


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

    cluster: tuple[PortEndpoint, ...] = ()
    """For traffic under policy Cluster; empty when no traffic is."""
    local: tuple[PortEndpoint, ...] = ()
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
    if uses_cluster and not uses_local and _are_plain(endpoints):
        return Categories(cluster=tuple(endpoints), has_endpoints=bool(endpoints))  # nearly every Service
    ready = [each for each in endpoints if each.endpoint.conditions.ready]
    leaving = [each for each in endpoints if _is_leaving(each)]
    topology, near = _near(ready, where) if uses_cluster else (Topology.NONE, ())
    cluster = near or (tuple(leaving) if uses_cluster else ())
    local: tuple[PortEndpoint, ...] = ()
    if uses_local:
        local = tuple([e for e in ready if e.endpoint.node_name == where.node])
        local = local or tuple([e for e in leaving if e.endpoint.node_name == where.node])
    return Categories(
        cluster=cluster,
        local=local,
        has_endpoints=bool(cluster) or (uses_local and bool(ready or leaving)),
        topology=topology,
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


def _near(ready: Sequence[PortEndpoint], where: Where) -> tuple[Topology, tuple[PortEndpoint, ...]]:
    """Return those that the hints give this node; all, unless every one has a hint and one of them is for us."""
    by_node = _hinted(ready, lambda each: each.endpoint.hint_nodes, where.node)
    if by_node:
        return Topology.SAME_NODE, by_node
    by_zone = _hinted(ready, lambda each: each.endpoint.hint_zones, where.zone)
    if by_zone:
        return Topology.SAME_ZONE, by_zone
    return Topology.NONE, tuple(ready)


def _hinted(
    ready: Sequence[PortEndpoint], hints: Callable[[PortEndpoint], tuple[str, ...]], own: str
) -> tuple[PortEndpoint, ...]:
    if not own or not all(hints(each) for each in ready):
        return ()
    return tuple([each for each in ready if own in hints(each)])
