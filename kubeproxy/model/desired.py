"""World → ServiceStates: what the node should do for each port of each Service. The input of every backend.

Flows in: a World, the node's Settings, an IP family and the Services of interest. Flows out: frozen values
that compare equal exactly when no backend has anything to change. A full sync and the sync of one Service
are this same function with another set of keys.

Cost: about 10 µs for a Service of three endpoints; nothing depends on the size of the rest of the World. Of a
large Service, whose endpoints come in runs (`runs.py`), only those runs cost that have changed.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import msgspec

from kubeproxy.model.addresses import Family, within
from kubeproxy.model.claims import NOTHING_LOST, Lost, Place
from kubeproxy.model.endpoints import PortEndpoint
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.node import NodeState, node_state
from kubeproxy.model.objects import Record, ServicePort, TrafficPolicy
from kubeproxy.model.runs import Run, by_text, gathered, in_runs
from kubeproxy.model.services import VirtualAddresses, health_check_port, virtual_addresses
from kubeproxy.model.settings import Settings
from kubeproxy.model.topology import Where, categorize
from kubeproxy.model.world import World


class Target(Record, frozen=True):
    """An endpoint as a backend needs it."""

    text: str
    """`ip:port`, an IPv6 address in brackets."""
    address: str
    port: int
    may_be_local: bool
    """On this node, or on a node that nobody named: it may then be a client of its own Service (hairpin)."""


class Refusal(StrEnum):
    """What becomes of a packet that no endpoint may have."""

    REJECT = "REJECT"
    """Nobody is there at all: the client is told at once."""
    DROP = "DROP"
    """Nobody on this node, and the policy is Local: another node may answer."""


class ServiceState(Record, frozen=True, kw_only=True):
    """All that a backend must know of one Service port in one family."""

    name: ServicePortName
    cluster_ip: str
    """"" when another Service owns this address and port (`claims.py`)."""
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    node_in_ranges: bool = False
    """Whether this node's own address may come through the load balancer addresses."""
    affinity_seconds: int = 0
    """How long a client stays with its endpoint; 0 without affinity."""
    scheduler: str = ""
    """The scheduler of IPVS that the Service asks for, "" for the node's. Only in ipvs mode: another mode has
    nothing to rewrite when it changes."""
    internal_local: bool = False
    """Whether traffic to the cluster IP stays on this node (internalTrafficPolicy Local)."""
    external_local: bool = False
    """Whether traffic from outside the cluster does (externalTrafficPolicy Local), keeping its source address."""
    cluster: Sequence[Target] = ()
    """Where traffic under policy Cluster goes; sorted by text. Empty when there is no such traffic. Like
    ``local`` a tuple, or of a large Service `Runs`."""
    local: Sequence[Target] = ()
    """Where traffic under policy Local goes; sorted by text. Empty when there is no such traffic."""
    has_endpoints: bool = False
    """Whether anybody anywhere could answer."""
    health_check_node_port: int = 0
    """Where this node tells load balancers whether it has endpoints; on the Service's first port only."""

    @property
    def is_external(self) -> bool:
        """Whether clients outside the cluster can address it."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)

    @property
    def internal(self) -> Sequence[Target]:
        """Where traffic to the cluster IP goes."""
        return self.local if self.internal_local else self.cluster

    @property
    def external(self) -> Sequence[Target]:
        """Where traffic from outside the cluster to external addresses and node ports goes.

        Under policy Local that of this cluster's pods and of the node itself goes to ``cluster`` instead.
        """
        return self.local if self.external_local else self.cluster

    @property
    def internal_refusal(self) -> Refusal | None:
        """What becomes of traffic to the cluster IP when ``internal`` is empty, None when it is not."""
        return self._refusal(self.internal)

    @property
    def external_refusal(self) -> Refusal | None:
        """What becomes of traffic from outside when ``external`` is empty, None when it is not."""
        return self._refusal(self.external)

    @property
    def reachable(self) -> Sequence[Target]:
        """Every target of either category, once; sorted by text. Of a large Service see first what is below."""
        return _united(self.cluster, self.local)

    @property
    def reach(self) -> int:
        """How many targets are reachable; goes through those of policy Local, which are this node's."""
        if not (self.cluster and self.local):
            return len(self.cluster) + len(self.local)
        cluster = self.cluster
        known = cluster.get if in_runs(cluster) else {each.text: each for each in cluster}.get
        return len(self.cluster) + sum([known(each.text) is None for each in self.local])

    @property
    def nearby(self) -> Sequence[Target]:
        """Those of the reachable that may be local."""
        near = gathered(self.cluster, _nearby, None)
        return _united(near, gathered(self.local, _nearby, None)) if self.local else near

    def _refusal(self, targets: Sequence[Target]) -> Refusal | None:
        if targets:
            return None
        return Refusal.DROP if self.has_endpoints else Refusal.REJECT


class Wanted(msgspec.Struct, frozen=True):
    """All that is wanted of a backend, or of it what concerns some Services."""

    node: NodeState
    ports: Iterable[tuple[ServicePortName, ServiceState]]
    """May be a stream, so that the kernel is fed while later ones are still computed."""


def wanted(world: World, settings: Settings, family: Family, only: Iterable[Key] | None = None) -> Wanted:
    """Return what the node should hold of the Services ``only`` (None: of all)."""
    node = node_state(world, settings, family)
    return Wanted(node, stream(world, settings, node, only))


def desired(
    world: World, settings: Settings, family: Family, only: Iterable[Key] | None = None
) -> dict[ServicePortName, ServiceState]:
    """Return the wanted state of every port of the Services ``only`` (None: of all)."""
    return dict(wanted(world, settings, family, only).ports)


def stream(
    world: World, settings: Settings, node: NodeState, only: Iterable[Key] | None = None
) -> Iterator[tuple[ServicePortName, ServiceState]]:
    """Yield the ports of Services one after the other."""
    where, own, local = Where(node.name, node.zone), (node.name, ""), TrafficPolicy.LOCAL
    for key in world.services if only is None else only:
        service = world.services.get(key)
        addresses = virtual_addresses(service, node.family) if service is not None else None
        if service is None or addresses is None:
            continue
        if not settings.allow_external_ips and addresses.external_ips:
            addresses = msgspec.structs.replace(addresses, external_ips=())
        merged = world.endpoints_of(key, node.family)
        loops = world.loops_of(key)
        lost = world.claims.lost.get(key, NOTHING_LOST)
        ranges = addresses.source_ranges
        in_ranges = bool(ranges) and any(within(node.node_ip, cidr) for cidr in ranges)
        affinity = service.affinity_seconds if service.session_affinity else 0
        scheduler = service.scheduler if settings.ipvs is not None else ""
        health_check = health_check_port(service)
        internal_local = service.internal_policy is local
        for index, port in enumerate(service.ports):
            name = ServicePortName(service.namespace, service.name, port.name, port.protocol)
            places = _won(addresses, port, index, lost) if lost else addresses
            node_port = port.node_port
            if lost and (index, Place("", port.protocol, node_port)) in lost:
                node_port = 0
            is_external = bool(node_port or places.external_ips or places.load_balancer_ips)
            external_local = is_external and service.external_policy is local
            endpoints = merged.get((port.name, port.protocol), ())
            chosen = categorize(
                _without(endpoints, loops) if loops else endpoints,
                where,
                uses_cluster=is_external or not internal_local,
                uses_local=internal_local or external_local,
            )
            state = ServiceState(
                name=name,
                cluster_ip=places.cluster_ip,
                port=port.port,
                cluster=_targets(chosen.cluster, own),
                has_endpoints=chosen.has_endpoints,
            )
            if is_external or internal_local or ranges or affinity or scheduler or health_check:
                # Few Services have any of these, and a constructor takes 0.07 µs for each keyword.
                state = msgspec.structs.replace(
                    state,
                    node_port=node_port,
                    external_ips=places.external_ips,
                    load_balancer_ips=places.load_balancer_ips,
                    source_ranges=ranges,
                    node_in_ranges=in_ranges,
                    affinity_seconds=affinity,
                    scheduler=scheduler,
                    internal_local=internal_local,
                    external_local=external_local,
                    local=_targets(chosen.local, own),
                    health_check_node_port=0 if index else health_check,
                )
            yield name, state


def _won(addresses: VirtualAddresses, port: ServicePort, index: int, lost: Lost) -> VirtualAddresses:
    """Return the addresses of a port without those that another Service owns."""

    def is_won(ip: str) -> bool:
        return (index, Place(ip, port.protocol, port.port)) not in lost

    return msgspec.structs.replace(
        addresses,
        cluster_ip=addresses.cluster_ip if is_won(addresses.cluster_ip) else "",
        external_ips=tuple(filter(is_won, addresses.external_ips)),
        load_balancer_ips=tuple(filter(is_won, addresses.load_balancer_ips)),
    )


def _without(endpoints: Sequence[PortEndpoint], loops: tuple[str, ...]) -> Sequence[PortEndpoint]:
    """Return endpoints but those at a Service's own addresses."""
    return endpoints.made(_run_without, loops) if in_runs(endpoints) else _clear_of(endpoints, loops)


def _run_without(endpoints: Iterable[PortEndpoint], loops: tuple[str, ...]) -> Run[PortEndpoint] | None:
    found = _clear_of(endpoints, loops)
    return Run(found) if found else None


def _clear_of(endpoints: Iterable[PortEndpoint], loops: tuple[str, ...]) -> tuple[PortEndpoint, ...]:
    return tuple([each for each in endpoints if each.endpoint.address not in loops])


def _targets(endpoints: Sequence[PortEndpoint], own: tuple[str, str]) -> Sequence[Target]:
    return endpoints.made(_run_of_targets, own) if in_runs(endpoints) else _targets_of(endpoints, own)


def _run_of_targets(endpoints: Iterable[PortEndpoint], own: tuple[str, str]) -> Run[Target]:
    return Run(_targets_of(endpoints, own))


def _targets_of(endpoints: Iterable[PortEndpoint], own: tuple[str, str]) -> tuple[Target, ...]:
    return tuple([Target(e.text, e.endpoint.address, e.port, e.endpoint.node_name in own) for e in endpoints])


def _nearby(targets: Sequence[Target], _: None) -> tuple[Target, ...]:
    return tuple([each for each in targets if each.may_be_local])


def _united(some: Sequence[Target], others: Sequence[Target]) -> Sequence[Target]:
    if not others:
        return some
    if not some:
        return others
    return tuple(sorted({*some, *others}, key=by_text))
