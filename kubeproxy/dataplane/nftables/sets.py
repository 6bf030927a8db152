"""The sets and maps of the table: what a key and its data are made of. Pure."""

from collections.abc import Iterator

from kubeproxy.dataplane.nftables import names
from kubeproxy.dataplane.nftables.names import ListMaps, Way
from kubeproxy.dataplane.nftables.ranges import length_of, spec_of
from kubeproxy.kernel.nf_tables.types import VERDICTS, Field, SetSpec

MOST_CLIENTS = 1 << 18
"""Clients of all Services together whom affinity remembers; more are served, and forgotten at once."""

_ADDRESS, _CLASS, _ENDPOINT = (Field.ADDRESS,), (Field.CLASS,), (Field.ADDRESS, Field.PORT)
_PLACE = {
    Way.ADDRESS: (Field.ADDRESS, Field.PROTOCOL, Field.PORT),
    Way.NODE_PORT: (Field.PROTOCOL, Field.PORT),
}
_AT = {Way.ADDRESS: "addresses", Way.NODE_PORT: "node ports"}


def _specs() -> Iterator[SetSpec]:
    yield SetSpec(name=names.CLUSTER_IPS, key=_ADDRESS, comment="Active ClusterIPs")
    yield SetSpec(
        name=names.HAIRPIN, key=(Field.SOURCE, *_PLACE[Way.ADDRESS]), comment="service hairpin connections"
    )
    guarded = "destinations that are subject to LoadBalancerSourceRanges"
    yield SetSpec(name=names.GUARDED_IPS, key=_PLACE[Way.ADDRESS], comment=guarded)
    for way in Way:
        yield from _of(way)


def _of(way: Way) -> Iterator[SetSpec]:
    place, own = _PLACE[way], way.value
    yield SetSpec(name=own.picks, key=_CLASS, data=VERDICTS, comment="class of a place: what becomes of it")
    yield SetSpec(
        name=own.short_circuit_picks, key=_CLASS, data=VERDICTS, comment="the same for pods and the node itself"
    )
    yield SetSpec(name=own.services, key=place, data=_CLASS, comment=f"class of Services' {_AT[way]}")
    yield SetSpec(
        name=own.short_circuits, key=place, data=_CLASS, comment="class for whom policy Local does not bind"
    )
    yield from _of_list(place, own.cluster, "endpoints")
    yield from _of_list(place, own.local, "this node's endpoints under policy Local")
    yield SetSpec(name=own.no_endpoints, key=place, comment="rejected")
    yield SetSpec(name=own.no_local, key=place, comment="dropped: every endpoint is on another node")
    yield SetSpec(
        name=own.affinity,
        key=(Field.SOURCE, *place),
        data=_CLASS,
        dynamic=True,
        size=MOST_CLIENTS,
        comment="number of the endpoint that a client had",
    )


def _of_list(place: tuple[Field, ...], maps: ListMaps, what: str) -> Iterator[SetSpec]:
    yield SetSpec(name=maps.endpoints, key=(*place, Field.SLOT), data=_ENDPOINT, comment=what)
    yield SetSpec(
        name=maps.choosers, key=_CLASS, data=VERDICTS, comment="class of a list: chooses for clients that are new"
    )
    yield SetSpec(name=maps.sizes, key=place, data=_CLASS, comment=f"with affinity: class of a list of {what}")
    yield SetSpec(name=maps.slots, key=(*place, Field.SLOT), data=_CLASS, comment=f"numbers of {what}")
    yield SetSpec(name=maps.sticky, key=(*place, Field.CLASS), data=_ENDPOINT, comment=f"{what}, by number")


SPECS: dict[str, SetSpec] = {spec.name: spec for spec in _specs()}
"""Every set and map that is always there, by name; `ranges` has the others."""
DYNAMIC = frozenset(name for name, spec in SPECS.items() if spec.dynamic)
"""Filled by packets; their elements are nobody's business."""
SHARED = frozenset((names.CLUSTER_IPS, names.HAIRPIN))
"""Sets whose elements several Service ports may ask for."""


def spec_named(name: str) -> SetSpec | None:
    """Return what a set of such a name is, of either kind; None when none of ours has it."""
    length = length_of(name)
    return SPECS.get(name) if length is None else spec_of(length)
