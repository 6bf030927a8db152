"""Questions → answers, from the agent's own World: whom a packet concerns, the verdict, the reasons. Pure.

Runs on the event loop, which owns the World: a look through 10,000 Services takes 10 ms, the rest microseconds.
"""

from collections.abc import Callable, Collection, Iterator

from kubeproxy.dataplane.locate import Locator, Spot
from kubeproxy.model.addresses import Family, host_port, within
from kubeproxy.model.desired import ServiceState, desired
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.node import LocalKind, NodeState, node_state
from kubeproxy.model.objects import Protocol, Record, Service, ServicePort, ServiceType
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.trace.answer import Answer, Asked, Candidate, PortAnswer, Said, ServiceAnswer
from kubeproxy.trace.endpoints import Endpoint, endpoints_of
from kubeproxy.trace.packet import Origin, Packet
from kubeproxy.trace.question import BadQuestion, Question
from kubeproxy.trace.table import Table, Way, concerned, places
from kubeproxy.trace.verdict import Verdict, judge

MOST_OBJECTS = 200
"""A Service may have 5,000 source ranges; so many rules are shown of one port."""


class Condition(Record, frozen=True, kw_only=True):
    """How a family's kernel state stands to the World."""

    warnings: tuple[str, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()
    """`ns/name:port/PROTOCOL`, and why."""
    notes: tuple[tuple[str, str], ...] = ()
    """The same of ports that are served otherwise than was asked."""


class Explainer:
    """Answers for one node."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        mode: str,
        flavour: str,
        locator: Locator,
        families: Collection[Family],
        condition: Callable[[Family], Condition],
        local_addresses: Callable[[Family], Collection[str]],
    ) -> None:
        self._world = world
        self._settings = settings
        self._mode = mode
        self._flavour = flavour
        self._locator = locator
        self._families = families
        self._condition = condition
        self._local_addresses = local_addresses

    def answer(self, question: Question) -> Answer | ServiceAnswer:
        """Answer. Raises BadQuestion."""
        if question.is_packet:
            return self._packet(question)
        assert question.service is not None
        return self._service(question.service)

    def _packet(self, question: Question) -> Answer:
        assert question.family is not None
        family = question.family
        if family not in self._families:
            raise BadQuestion(f"this agent does not serve {family.label}")
        destination, port, protocol = self._destination(question, family)
        local = frozenset(self._local_addresses(family))
        only = concerned(self._world, destination, port)
        condition = self._condition(family)
        quarantined = dict(self._among(only, condition.quarantined))
        table = Table(
            self._world, self._settings, family, local_addresses=local, only=only, quarantined=quarantined
        )
        packet = Packet(
            origin=question.origin or self._origin(question.source, table),
            source=question.source,
            destination=destination,
            port=port,
            protocol=protocol,
            interface=question.interface,
        )
        verdict = judge(table, packet)
        notes = dict(self._among(only, condition.notes))
        note = notes.get(verdict.state.name, "") if verdict.state else ""
        node = table.node
        return Answer(
            node=node.name,
            mode=self._mode,
            flavour=self._flavour,
            family=family.label,
            packet=Asked(
                origin=packet.origin,
                source=packet.source,
                interface=packet.interface,
                destination=destination,
                port=port,
                protocol=protocol,
            ),
            outcome=verdict.outcome,
            service=str(verdict.state.name) if verdict.state else "",
            steps=tuple(self._said(node, packet, verdict)),
            endpoints=self._candidates(node, verdict),
            warnings=(*condition.warnings, *([f"served otherwise than was asked: {note}"] if note else [])),
            pods_by=node.local.kind.value,
            pods_interface=node.local.value if node.local.kind in (LocalKind.PREFIX, LocalKind.INTERFACE) else "",
        )

    def _destination(self, question: Question, family: Family) -> tuple[str, int, Protocol]:
        """Return address, port and protocol; a Service's are looked up."""
        if question.service is None:
            if not question.port.isdigit():
                raise BadQuestion("a destination needs a port: ADDRESS:PORT")
            return question.destination, int(question.port), question.protocol or Protocol.TCP
        name = "/".join(question.service)
        service = self._world.services.get(question.service)
        if service is None:
            raise BadQuestion(f"there is no Service {name} (none that is proxied here)")
        address = question.destination or next(
            (ip for ip in service.cluster_ips if (":" in ip) is (family is Family.V6)), ""
        )
        if not address:
            raise BadQuestion(f"Service {name} has no {family.label} cluster IP")
        port = _chosen(service, question)
        return address, port.port, port.protocol

    def _origin(self, source: str, table: Table) -> Origin:
        if table.is_local(source):
            return Origin.NODE
        node = table.node
        networks = (*self._settings.cluster_cidrs, *(self._world.node.pod_cidrs if self._world.node else ()))
        if node.local.kind is LocalKind.SOURCE:
            networks = (*networks, node.local.value)
        if any(within(source, cidr) for cidr in networks):
            return Origin.POD
        pieces = self._world.slices.values()
        known = any(each.address == source for piece in pieces for each in piece.endpoints)
        return Origin.POD if known else Origin.OUTSIDE

    def _among(
        self, keys: Collection[Key], listed: Collection[tuple[str, str]]
    ) -> Iterator[tuple[ServicePortName, str]]:
        """Yield what is listed of ports of some Services."""
        if not listed:
            return
        told = dict(listed)
        for key in keys:
            service = self._world.services.get(key)
            for port in service.ports if service else ():
                name = ServicePortName(*key, port.name, port.protocol)
                why = told.get(f"{name}/{name.protocol}")
                if why:
                    yield name, why

    def _said(self, node: NodeState, packet: Packet, verdict: Verdict) -> Iterator[Said]:
        by_node_port = verdict.way is Way.NODE_PORT
        for step in verdict.steps:
            spot = Spot(
                subject=step.subject,
                address="" if by_node_port else packet.destination,
                inside=verdict.way is Way.CLUSTER_IP,
                local=verdict.under_local,
            )
            rule = self._locator.locate(node, verdict.state, spot)
            yield Said(about=step.subject, text=step.text, rule=rule)

    def _candidates(self, node: NodeState, verdict: Verdict) -> tuple[Candidate, ...]:
        state = verdict.state
        if state is None:
            return ()
        chances = {each.target.text: each for each in verdict.destinations}
        found = []
        for each in endpoints_of(self._world, node, state.name, local=verdict.under_local):
            chosen = chances.get(each.text)
            found.append(
                Candidate(
                    endpoint=each.text,
                    node=each.node,
                    left_out=each.unused,
                    chance=chosen.chance if chosen else 0.0,
                    masquerade=chosen.masquerade if chosen else "",
                )
            )
        return tuple(found)

    def _service(self, key: Key) -> ServiceAnswer:
        service = self._world.services.get(key)
        name = "/".join(key)
        notes = list(_why_nothing(service, name))
        notes += map(str, self._world.rejections_of("Service", key))
        for piece in self._world.slices_of(key):
            notes += map(str, self._world.rejections_of("EndpointSlice", (piece.namespace, piece.name)))
        ports: list[PortAnswer] = []
        warnings: list[str] = []
        health = ""
        for family in self._families:
            condition = self._condition(family)
            warnings += [f"{family.label}: {text}" for text in condition.warnings]
            node = node_state(self._world, self._settings, family)
            refused = dict(self._among([key], condition.quarantined))
            noted = dict(self._among([key], condition.notes))
            for port, state in desired(self._world, self._settings, family, [key]).items():
                ports.append(self._port(node, port, state, refused.get(port, ""), noted.get(port, "")))
                if state.health_check_node_port:
                    health = f"{state.health_check_node_port}/TCP on every node: this agent answers"
        return ServiceAnswer(
            node=self._settings.node_name,
            mode=self._mode,
            flavour=self._flavour,
            service=name,
            known=service is not None,
            ports=tuple(ports),
            health_check=health,
            notes=tuple(notes),
            warnings=tuple(warnings),
        )

    def _port(
        self, node: NodeState, name: ServicePortName, state: ServiceState, refused: str, note: str
    ) -> PortAnswer:
        objects = [] if refused else self._locator.objects(node, state)
        if len(objects) > MOST_OBJECTS:
            objects[MOST_OBJECTS:] = [f"and {len(objects) - MOST_OBJECTS} more"]
        left_out = [f"the kernel interface refused it: {refused}"] if refused else []
        left_out += [f"served otherwise than was asked: {note}"] if note else []
        for index, place in sorted(self._world.claims.lost.get(name.key, ())):
            owner = self._world.claims.owner(place)
            ports = self._world.services[name.key].ports
            if index < len(ports) and (ports[index].name, ports[index].protocol) == (name.port, name.protocol):
                what = f"{place.address}:{place.port}" if place.address else f"node port {place.port}"
                left_out.append(f"{what} is left to {owner.whose}, which claims it too")
        inside = _listed(endpoints_of(self._world, node, name, local=state.internal_local))
        outside: tuple[Candidate, ...] = ()
        if state.is_external and state.external_local != state.internal_local:
            outside = _listed(endpoints_of(self._world, node, name, local=state.external_local))
        return PortAnswer(
            port=f"{name.port} {state.port}/{name.protocol}".strip(),
            family=node.family.label,
            addresses=tuple(_place(way, place.address, place.port) for place, way in places(state)),
            policies=tuple(_policies(state)),
            inside=inside,
            outside=outside,
            objects=tuple(objects),
            left_out=tuple(left_out),
        )


def _chosen(service: Service, question: Question) -> ServicePort:
    """Return the port of a Service that is meant."""
    found = [
        port
        for port in service.ports
        if question.port in ("", port.name, str(port.port)) and question.protocol in (None, port.protocol)
    ]
    name = f"Service {service.namespace}/{service.name}"
    listed = ", ".join(f"{port.name or port.port} ({port.port}/{port.protocol})" for port in service.ports)
    if not found:
        if question.port.isdigit():
            return ServicePort(port=int(question.port), protocol=question.protocol or Protocol.TCP)
        raise BadQuestion(f"{name} has no such port; it has {listed or 'none'}")
    if len(found) > 1 and not question.port:
        raise BadQuestion(f"{name} has several ports; name one of {listed}")
    return found[0]


def _why_nothing(service: Service | None, name: str) -> Iterator[str]:
    if service is None:
        yield (
            f"no Service {name} is known here: it does not exist, or is headless (clusterIP None), "
            "or has the label service.kubernetes.io/service-proxy-name"
        )
    elif service.headless:
        yield "it is headless (clusterIP None): DNS answers with its endpoints, nothing is programmed"
    elif service.type is ServiceType.EXTERNAL_NAME:
        yield f"it is an ExternalName: DNS answers with {service.external_name}, nothing is programmed"
    elif service.proxy_name:
        yield f"label service.kubernetes.io/service-proxy-name: {service.proxy_name} is to proxy it"
    elif not service.cluster_ips:
        yield "it has no cluster IP"
    elif not service.ports:
        yield "it has no port"


def _policies(state: ServiceState) -> Iterator[str]:
    words = {False: "Cluster", True: "Local"}
    yield f"internalTrafficPolicy {words[state.internal_local]}{_refusal(state.internal_refusal)}"
    if state.is_external:
        yield f"externalTrafficPolicy {words[state.external_local]}{_refusal(state.external_refusal)}"
    if state.affinity_seconds:
        yield f"session affinity: a client stays with its endpoint for {state.affinity_seconds} s"
    if state.source_ranges:
        ranges = ", ".join(state.source_ranges[:5]) + (", …" if len(state.source_ranges) > 5 else "")
        own = ", and this node" if state.node_in_ranges else ""
        yield f"loadBalancerSourceRanges: {ranges}{own}"


def _refusal(refusal: object) -> str:
    words = {"REJECT": ": no endpoints, refused", "DROP": ": no endpoint on this node, dropped"}
    return words.get(str(refusal), "")


def _place(way: Way, address: str, port: int) -> str:
    return f"{way} {host_port(address, port) if address else port}"


def _listed(endpoints: Collection[Endpoint]) -> tuple[Candidate, ...]:
    used = sum(not each.unused for each in endpoints)
    return tuple(
        Candidate(
            endpoint=each.text,
            node=each.node,
            left_out=each.unused,
            chance=0.0 if each.unused else 1 / used,
        )
        for each in endpoints
    )
