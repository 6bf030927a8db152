"""What the kernel holds when everything is looked at, and what of it is ours. Pure values.

Virtual servers bear no name. Ours are those that our set names, those with one of our packet marks, and those
that this process remembers to have made; on taking over from kube-proxy, those that its sets name. Nobody else's
is ever touched.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

from kubeproxy.dataplane.ipvs.names import MAX_SET_NAME, Set, is_short_circuit, set_name
from kubeproxy.dataplane.ipvs.part import place_of
from kubeproxy.dataplane.leftovers import upstream
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Found, Server, ServerKey
from kubeproxy.model.addresses import Family, within
from kubeproxy.model.objects import Protocol, Record

PREFIX = {family: set_name(family, Set.SERVERS).removesuffix(Set.SERVERS) for family in Family}

_UPSTREAM_PORTS = {"NODE-PORT-TCP": Protocol.TCP, "NODE-PORT-UDP": Protocol.UDP}
"""kube-proxy's sets of bare port numbers, which say nothing of the protocol themselves."""
_UPSTREAM_PLACES = (
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "NODE-PORT-SCTP-HASH",
)
"""Its sets of addresses with protocols and ports of virtual servers."""


class Ground(Record, frozen=True, kw_only=True):
    """What can be listed at once of one family."""

    members: Mapping[Set, Collection[Member]]
    is_upstreams: Callable[[ServerKey], bool]
    """Whether kube-proxy says that a virtual server is its own."""
    routes: Mapping[str, str]
    """Virtual addresses that are local, each with its source or ""."""
    on_device: frozenset[str]
    """Addresses of the device itself, as kube-proxy has them."""
    elsewhere: frozenset[str]
    """Addresses of this machine's other devices."""
    masquerade_mark: int
    is_excluded: Callable[[ServerKey], bool]
    """Whether a virtual server is nobody's but by its name in our set (`--ipvs-exclude-cidrs`)."""
    servers: Mapping[ServerKey, Server]
    """Every virtual server, anybody's."""

    def marks(self) -> dict[Member, int]:
        """Return the marks of short-circuited places (address, protocol, port)."""
        return {(each[0], each[1], each[2]): each[3] for each in _marked(self.members)}

    def protocols(self) -> dict[int, Protocol]:
        """Return what each mark is for, with the masquerade bit and without."""
        found = {}
        for _, protocol, _, mark, _ in _marked(self.members):
            found[mark] = found[mark | self.masquerade_mark] = protocol
        return found


class Survey(Record, frozen=True, kw_only=True):
    """The same, and what of the virtual servers is ours."""

    ground: Ground
    owned: frozenset[ServerKey]
    """Those that are ours."""
    found: Mapping[ServerKey, list[Found]]
    """Destinations of ours, and of those at places that are wanted."""


def upstream_places(
    family: Family,
    present: Collection[str],
    members: Callable[[str], set[Member]],
    local: Collection[str],
    excluded: Collection[str],
) -> Callable[[ServerKey], bool]:
    """Return what tells whether kube-proxy's ipvs mode says that a virtual server is its own.

    ``present`` are the sets that there are, ``members`` reads one. One of its sets is ours as well, and tells of
    its servers only as long as there are others (`leftovers` removes them when all is taken over). Node ports are
    at the ``local`` addresses of this machine; nothing is its own in the CIDRs ``excluded``.
    """
    if not stale_sets(family, present):
        return lambda key: False

    def read(which: str) -> set[Member]:
        name = f"{PREFIX[family]}{which}"[:MAX_SET_NAME]
        return members(name) if name in present else set()

    places = {member for which in _UPSTREAM_PLACES for member in read(which)}
    ports: set[object] = {(protocol, each) for which, protocol in _UPSTREAM_PORTS.items() for each in read(which)}

    def is_upstreams(key: ServerKey) -> bool:
        if not key.address or is_within(key.address, excluded):
            return False
        is_node_port = (key.protocol, key.port) in ports and key.address in local
        return is_node_port or place_of(key) in places

    return is_upstreams


def is_within(address: str, cidrs: Collection[str]) -> bool:
    """Return whether an address is in any of some networks."""
    return any(within(address, cidr) for cidr in cidrs)


def owning(
    members: Mapping[Set, Collection[Member]],
    is_upstreams: Callable[[ServerKey], bool],
    made: Collection[ServerKey],
    masquerade_bit: int,
) -> Callable[[ServerKey], bool]:
    """Return what tells whether a virtual server is ours: our sets, its mark, or that we have ``made`` it."""
    named, marks = members[Set.SERVERS], {each[3] for each in _marked(members)}

    def is_ours(key: ServerKey) -> bool:
        if key in made:
            return True
        if not key.mark:
            return place_of(key) in named or is_upstreams(key)
        # An agent before this one may have had another masquerade bit.
        return is_short_circuit(key.mark, masquerade_bit) or any(
            key.mark & ~(1 << bit) in marks for bit in range(32)
        )

    return is_ours


def _marked(
    members: Mapping[Set, Collection[Member]],
) -> Iterator[tuple[str, Protocol, int, int, int]]:
    for each in members[Set.SHORT_CIRCUIT]:
        if isinstance(each, tuple) and len(each) == 5:
            yield each


def stale_sets(family: Family, present: Collection[str]) -> tuple[str, ...]:
    """Return kube-proxy's sets that we have no use for, in a fixed order."""
    own = {set_name(family, each) for each in Set}
    return tuple(name for name in upstream.IPVS_SETS[family] if name in present and name not in own)
