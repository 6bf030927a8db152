"""World: what the store says, indexed the way the node asks for it.

Informers hand over batches; `World` keeps the newest object of each kind and key and answers which Services
a batch touched. It is made for every consumer, not for the proxy alone, so headless and ExternalName Services
stay in it; who does not want them skips them (`services.py`).

An address that no endpoint or virtual IP may have (loopback, unspecified, link-local, multicast, or not of its
slice's family: the API server refuses them too) is taken out at this door and remembered in `World.rejected`,
so that no consumer can forget the check: an endpoint at 127.0.0.1 would let a Service reach what listens on the
node only. The node's own address is legal: pods on the host's network have it.

Cost: that of a changed object, however many others its Service has (`large.py`). An object that is applied again
unchanged touches nothing, and one that goes A → B → A between two syncs leads to equal ServiceStates, hence to no
write.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from heapq import nsmallest
from ipaddress import ip_network
from itertools import chain, islice
from typing import TypeVar

import msgspec

from kubeproxy.model.addresses import Family
from kubeproxy.model.admission import Rejection, admissible_service, admissible_slice, rejection
from kubeproxy.model.claims import FIELDS, NOTHING_LOST, Claims, Lost, Place
from kubeproxy.model.endpoints import Merged
from kubeproxy.model.ident import Key
from kubeproxy.model.large import LargeServices
from kubeproxy.model.objects import (
    EndpointSlice,
    Node,
    Service,
    ServiceCIDR,
)

T = TypeVar("T", Service, EndpointSlice)
V = TypeVar("V")

MOST_TOLD = 1000
"""Rejections that are listed: whoever makes a million must not occupy the event loop with telling of them."""
MOST_TOLD_OF = 20
"""Of one object."""


class World:
    """The objects of a cluster that a node knows. Owned by one thread; the values in it are frozen."""

    def __init__(self) -> None:
        self.services: dict[Key, Service] = {}
        self.slices: dict[Key, EndpointSlice] = {}
        self.node: Node | None = None
        self.service_cidrs: dict[str, tuple[str, ...]] = {}
        """By name of the ServiceCIDR."""
        self.claims = Claims()
        self.rejected: dict[tuple[str, str, str], tuple[Rejection, ...]] = {}
        """By kind, namespace and name."""
        self._slices_of: dict[Key, tuple[EndpointSlice, ...]] = {}
        self._large = LargeServices()
        self._loops: dict[Key, tuple[str, ...]] = {}
        self._kept_clear: tuple[Place, str] | None = None
        self._told: tuple[Rejection, ...] | None = None
        """What `rejections` returns for as long as nothing of it may differ."""
        self._told_disputes = 0

    def keep_clear(self, place: Place, why: str) -> None:
        """Let no Service have the address of a place, at any port.

        But as a load balancer's address whoever serves the place may have it. For ipvs mode, which makes addresses
        the node's own. Before any Service is applied.
        """
        self._kept_clear = place, why

    def slices_of(self, service: Key) -> tuple[EndpointSlice, ...]:
        """Return the EndpointSlices of a Service, in no particular order."""
        return self._slices_of.get(service, ())

    def endpoints_of(self, service: Key, family: Family) -> Merged:
        """Return the endpoints of each of a Service's ports in one family, see `endpoints.merge`."""
        return self._large.merged(service, self.slices_of(service), family)

    def kept_endpoints_of(self, service: Key, family: Family) -> Merged | None:
        """Return the same where nothing has to be merged for it, else None (see `large.py`)."""
        return self._large.kept(service, family)

    def loops_of(self, service: Key) -> tuple[str, ...]:
        """Return the endpoint addresses of a Service that are its own: nobody is there."""
        return self._loops.get(service, ())

    def apply_services(self, batch: Mapping[Key, Service | None]) -> set[Key]:
        """Take over Services (None: deleted); return those that differ from before."""
        touched = set()
        for key, service in batch.items():
            if service is not None:
                service = self._admit(
                    "Service", key, service, lambda each: admissible_service(each, self._kept_clear)
                )
            else:
                self._note_rejected("Service", key, ())
            before = self.services.get(key)
            if before == service:
                continue
            touched.add(key)
            touched |= self.claims.replace(before, service)
            if service is None:
                del self.services[key]
            else:
                self.services[key] = service
            if _own(before) != _own(service):
                self._note_loops(key)
        return touched

    def apply_slices(self, batch: Mapping[Key, EndpointSlice | None]) -> set[Key]:
        """Take over EndpointSlices (None: deleted); return the Services whose slices differ from before."""
        gone: dict[Key, list[EndpointSlice]] = {}
        come: dict[Key, list[EndpointSlice]] = {}
        for key, piece in batch.items():
            if piece is not None:
                piece = self._admit("EndpointSlice", key, piece, admissible_slice)
            else:
                self._note_rejected("EndpointSlice", key, ())
            before = self.slices.get(key)
            if before == piece:
                continue
            if before is not None:
                self._drop_slice(key, before, gone)
            if piece is not None:
                self._add_slice(key, piece, come)
        touched = {*gone, *come}
        for owner in touched:
            old, new = gone.get(owner, ()), come.get(owner, ())
            self._large.take(owner, old, new, self.slices_of(owner))
            addresses = [each.address for piece in (*old, *new) for each in piece.endpoints]
            if not _own(self.services.get(owner)).isdisjoint(addresses):
                self._note_loops(owner)
        return touched

    def _note_loops(self, key: Key) -> None:
        """Find out anew which endpoints of a Service are itself."""
        service, pieces = self.services.get(key), self._slices_of.get(key)
        if service is not None and pieces is not None:
            own = _own(service)
            found = {e.address for piece in pieces for e in piece.endpoints if e.address in own}
            if found:
                self._loops[key] = tuple(sorted(found))
                self._told = None
                return
        if self._loops.pop(key, None):
            self._told = None

    def apply_node(self, node: Node | None) -> bool:
        """Take over this machine's own Node; return whether what forwarding depends on differs."""
        before, self.node = self.node, node
        differs = _node_facts(before) != _node_facts(node)
        if differs:
            self._told = None
        return differs

    def apply_service_cidrs(self, batch: Mapping[Key, ServiceCIDR | None]) -> bool:
        """Take over ServiceCIDRs (None: deleted; keys are ("", name)); return whether any differs."""
        before = dict(self.service_cidrs)
        for (_, name), entry in batch.items():
            if entry is None:
                self.service_cidrs.pop(name, None)
            else:
                self.service_cidrs[name] = entry.cidrs
        self._told = None
        return before != self.service_cidrs

    def part(self, keys: Iterable[Key] | None) -> "World":
        """Return a World of some Services (None: all), for another thread to read; it shares the values."""
        part = World()
        part.node = self.node
        part.service_cidrs = dict(self.service_cidrs)
        if keys is None:
            part.services = dict(self.services)
            part._slices_of = dict(self._slices_of)
            part._large = self._large.part(None)
            part._loops = dict(self._loops)
            part.claims.lost = {key: set(lost) for key, lost in self.claims.lost.items()}
            return part
        part._large = self._large.part(keys)
        for key in keys:
            service, pieces = self.services.get(key), self._slices_of.get(key)
            if key in self.claims.lost:
                part.claims.lost[key] = set(self.claims.lost[key])
            if service is not None:
                part.services[key] = service
            if pieces is not None:
                part._slices_of[key] = pieces
            if key in self._loops:
                part._loops[key] = self._loops[key]
        return part

    def service_ranges(self) -> set[str]:
        """Return the CIDRs in which an address that no Service has leads nowhere."""
        return {cidr for _, cidr, why in self._ranges() if not why}

    def _ranges(self) -> Iterator[tuple[str, str, str]]:
        """Yield by ServiceCIDR each of its CIDRs, and why packets to it are not dropped all the same.

        What holds the node's own address, or its pods', would cut the node off from the cluster, and this agent
        from the server that could tell it better.
        """
        node = self.node
        others = (*node.internal_ips, *node.external_ips, *node.pod_cidrs) if node else ()
        for name, cidrs in self.service_cidrs.items():
            for cidr in cidrs:
                held = next((each for each in others if _overlap(cidr, each)), "")
                yield name, cidr, held and f"not for Services alone: {held} is the node's or its pods'"

    def rejections(self) -> tuple[Rejection, ...]:
        """Return what is left out at present, sorted by object: up to `MOST_TOLD`, `MOST_TOLD_OF` of each.

        The same tuple until something of it may differ: most changes have nothing to do with what is left out.
        """
        if self._told is None or self._told_disputes != self.claims.disputes:
            self._told, self._told_disputes = self._rejections(), self.claims.disputes
        return self._told

    def _rejections(self) -> tuple[Rejection, ...]:
        objects = sorted({*self.rejected, *(("Service", *key) for key in (*self.claims.lost, *self._loops))})
        found = [
            Rejection(kind="ServiceCIDR", namespace="", name=name, field="spec.cidrs", value=cidr, reason=why)
            for name, cidr, why in sorted(self._ranges())
            if why
        ]
        for at, (kind, namespace, name) in enumerate(objects):
            if len(found) >= MOST_TOLD:
                more, why = str(len(objects) - at), "more objects of which parts are left out"
                last = Rejection(kind="", namespace="", name="", field="and", value=more, reason=why)
                return (*found, last)
            found += self.rejections_of(kind, (namespace, name))
        return tuple(found)

    def rejections_of(self, kind: str, key: Key) -> list[Rejection]:
        """Return what of one object is left out, `MOST_TOLD_OF` parts and how many there are beside."""
        refused = self.rejected.get((kind, *key), ())
        lost = self.claims.lost.get(key, NOTHING_LOST) if kind == "Service" else NOTHING_LOST
        loops = self._loops.get(key, ()) if kind == "Service" else ()
        every = chain(refused, self._contested(key, lost), self._looping(key, loops))
        found = list(islice(every, MOST_TOLD_OF))
        more = len(refused) + len(lost) + len(loops) - len(found)
        if more:
            found.append(
                msgspec.structs.replace(found[0], field="and", value=str(more), reason="more of the kind")
            )
        return found

    def _looping(self, key: Key, addresses: Iterable[str]) -> Iterator[Rejection]:
        for address in addresses:
            yield rejection("Service", self.services[key], "endpoint", address, "the Service's own address")

    def _contested(self, key: Key, lost: Lost) -> Iterator[Rejection]:
        service = self.services.get(key)
        for index, place in nsmallest(MOST_TOLD_OF, lost):
            assert service is not None
            owner = self.claims.owner(place)
            field = f"spec.ports[{index}].nodePort"
            if place.address:
                ranked = (service.cluster_ips, service.load_balancer_ips, service.external_ips)
                field = next(name for name, ips in zip(FIELDS, ranked, strict=True) if place.address in ips)
            value = f"{place.address}:{place.port}/{place.protocol}".lstrip(":")
            yield rejection("Service", service, field, value, f"the place of {owner.whose}")

    def _admit(self, kind: str, key: Key, value: T, check: Callable[[T], tuple[T, list[Rejection]]]) -> T:
        admitted, rejections = check(value)
        self._note_rejected(kind, key, tuple(rejections))
        return admitted

    def _note_rejected(self, kind: str, key: Key, rejections: tuple[Rejection, ...]) -> None:
        if rejections == self.rejected.get((kind, *key), ()):
            return
        self._told = None
        if rejections:
            self.rejected[kind, *key] = rejections
        else:
            del self.rejected[kind, *key]

    def _drop_slice(self, key: Key, piece: EndpointSlice, gone: dict[Key, list[EndpointSlice]]) -> None:
        del self.slices[key]
        if not piece.service:
            return
        owner = (piece.namespace, piece.service)
        gone.setdefault(owner, []).append(piece)
        others = tuple([each for each in self._slices_of[owner] if each is not piece])
        if others:
            self._slices_of[owner] = others
        else:
            del self._slices_of[owner]

    def _add_slice(self, key: Key, piece: EndpointSlice, come: dict[Key, list[EndpointSlice]]) -> None:
        self.slices[key] = piece
        if not piece.service:
            return
        owner = (piece.namespace, piece.service)
        come.setdefault(owner, []).append(piece)
        self._slices_of[owner] = (*self._slices_of.get(owner, ()), piece)


@lru_cache(maxsize=1024)
def _overlap(cidr: str, other: str) -> bool:
    one, two = ip_network(cidr), ip_network(other)
    return one.version == two.version and one.overlaps(two)


def _own(service: Service | None) -> set[str]:
    """Return the addresses that a Service itself has."""
    if service is None:
        return set()
    return {*service.cluster_ips, *service.external_ips, *service.load_balancer_ips}


def _node_facts(node: Node | None) -> tuple[object, ...]:
    return () if node is None else (node.internal_ips, node.external_ips, node.zone, node.pod_cidrs)
