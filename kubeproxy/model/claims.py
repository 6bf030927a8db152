"""Who owns an address and port that two Services claim.

The API server sees to it that cluster IPs and node ports are handed out once, but not every writer asks it, and
external IPs may be anybody's: a Service whose external IP is another's cluster IP would take its traffic
(CVE-2020-8554). Upstream leaves the outcome to the order of a map. Here each place has one owner, the same on
every node and in every mode: a cluster IP beats a load balancer's address, that beats an external IP; then the
older Service; then the name. The loser's place is left out, and told, for as long as the owner is there.

Cost: O(1) a place. Places that nobody contests, nearly all, hold one entry of a dictionary.
"""

from collections.abc import Iterator, Set
from typing import NamedTuple

from kubeproxy.model.addresses import family_of
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import Protocol, Service
from kubeproxy.model.services import is_proxied


class Place(NamedTuple):
    """Where packets go to: an address, or "" for a node port, with protocol and port."""

    address: str
    protocol: Protocol
    port: int


class Claim(NamedTuple):
    """One Service port's claim; the smallest owns the place."""

    rank: int
    created: str
    """The Service's creationTimestamp (RFC 3339: sorts as text)."""
    namespace: str
    name: str
    port_index: int
    """Which of the Service's ports."""

    @property
    def key(self) -> Key:
        """The Service that claims."""
        return self.namespace, self.name

    @property
    def whose(self) -> str:
        """The Service's name, or what the place is reserved for."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


FIELDS = ("spec.clusterIPs", "status.loadBalancer.ingress", "spec.externalIPs")
"""By rank, what a claim comes from; a node port's is `spec.ports`."""

Lost = Set[tuple[int, Place]]
"""A Service's lost claims: which port and place. Whose it is, `Claims.owner` knows."""

NOTHING_LOST: Lost = frozenset()


class Claims:
    """Every place that a Service claims, and its owner."""

    def __init__(self) -> None:
        self._owners: dict[Place, Claim] = {}
        self._waiting: dict[Place, set[Claim]] = {}
        """Claims that do not own their place."""
        self.lost: dict[Key, set[tuple[int, Place]]] = {}
        self.disputes = 0
        """Counts the changes of what is contested; while it stands still, so does whatever is told of that."""

    def owner(self, place: Place) -> Claim:
        """Return whose a place is that somebody claims."""
        return self._owners[place]

    def reserve(self, place: Place, whose: str) -> None:
        """Keep a place from every external IP: the API server's, for who takes its traffic locks all agents out.

        A cluster IP or a load balancer's address stays stronger: the API server may be reached by one.
        """
        self._stake(place, Claim(FIELDS.index("spec.externalIPs"), "", "", whose, 0))

    def replace(self, before: Service | None, after: Service | None) -> set[Key]:
        """Exchange a Service's claims; return the other Services that won or lost a place by it."""
        old = dict(_claims(before)) if before is not None else {}
        new = dict(_claims(after)) if after is not None else {}
        if old == new:
            return set()
        touched: set[Key] = set()
        for (index, place), claim in old.items():
            if new.get((index, place)) != claim:
                touched |= self._withdraw(place, claim)
        for (index, place), claim in new.items():
            if old.get((index, place)) != claim:
                touched |= self._stake(place, claim)
        return touched

    def _stake(self, place: Place, claim: Claim) -> set[Key]:
        owner = self._owners.get(place)
        if owner is None:
            self._owners[place] = claim
            return set()
        self.disputes += 1
        waiting = self._waiting.setdefault(place, set())
        if owner < claim:
            waiting.add(claim)
            self._note_lost(place, claim)
            return set()
        # For those that wait already nothing changes: who has lost has lost, to whomever.
        self._owners[place] = claim
        waiting.add(owner)
        self._note_lost(place, owner)
        return {owner.key} if owner.namespace else set()

    def _withdraw(self, place: Place, claim: Claim) -> set[Key]:
        waiting = self._waiting.get(place)
        if waiting is None:
            del self._owners[place]
            return set()
        self.disputes += 1
        if self._owners[place] != claim:
            waiting.discard(claim)
            self._note_won(place, claim)
            self._forget_peace(place, waiting)
            return set()
        heir = self._owners[place] = min(waiting)
        waiting.discard(heir)
        self._note_won(place, heir)
        self._forget_peace(place, waiting)
        return {heir.key} if heir.namespace else set()

    def _forget_peace(self, place: Place, waiting: set[Claim]) -> None:
        if not waiting:
            del self._waiting[place]

    def _note_lost(self, place: Place, claim: Claim) -> None:
        if not claim.namespace:
            return  # reserved: no Service, so nobody to tell
        self.lost.setdefault(claim.key, set()).add((claim.port_index, place))

    def _note_won(self, place: Place, claim: Claim) -> None:
        lost = self.lost.get(claim.key, set())
        lost.discard((claim.port_index, place))
        if not lost:
            self.lost.pop(claim.key, None)


def _claims(service: Service) -> Iterator[tuple[tuple[int, Place], Claim]]:
    families = {family_of(ip) for ip in service.cluster_ips}
    if not families or not is_proxied(service):
        return
    ranked = (service.cluster_ips, service.load_balancer_ips, service.external_ips)
    own: set[str] = set()
    for rank, addresses in enumerate(ranked):
        for address in addresses:
            if address in own or family_of(address) not in families:
                continue  # one of its own already contests nothing, nor does one that it does not serve
            own.add(address)
            for index, port in enumerate(service.ports):
                place = Place(address, port.protocol, port.port)
                yield (index, place), _claim(service, rank, index)
    for index, port in enumerate(service.ports):
        if port.node_port:
            yield (index, Place("", port.protocol, port.node_port)), _claim(service, 0, index)


def _claim(service: Service, rank: int, index: int) -> Claim:
    return Claim(rank, service.created, service.namespace, service.name, index)
