"""ServiceState → Sheet: the elements of one Service port, and the classes of its places. Pure.

Which endpoints a client may have is decided in the model; here that becomes elements of sets. What a packet meets
at a place is the place's class (`names.Class`); which endpoint it gets is in the maps of slots.

Cost: 5 µs for a Service of three endpoints.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256

from kubeproxy.dataplane.nftables import names
from kubeproxy.dataplane.nftables.classes import Classes
from kubeproxy.dataplane.nftables.lists import Listing
from kubeproxy.dataplane.nftables.names import Class, Kind, ListMaps, Way
from kubeproxy.dataplane.nftables.ranges import set_of
from kubeproxy.dataplane.nftables.sheet import Sheet
from kubeproxy.dataplane.nftables.slots import Slots
from kubeproxy.dataplane.nftables.stays import kept_seconds
from kubeproxy.kernel.netlink_messages import packed_address
from kubeproxy.kernel.nf_tables.fields import COMMENT_BYTES, node_port
from kubeproxy.kernel.nf_tables.types import Element
from kubeproxy.model.desired import Refusal, ServiceState, Target
from kubeproxy.model.node import NodeState

_is_safe = re.compile(r"[a-z0-9][a-z0-9./:-]*", re.ASCII).fullmatch

# Python looks an enumeration's members up in 0.2 µs each time.
_ADDRESS, _NODE_PORT = Way
_NAMES = {way: way.value for way in Way}
_CLUSTER, _MASQUERADE, _LOCAL, _PICK = Kind.CLUSTER, Kind.MASQUERADE, Kind.LOCAL, Kind.PICK
_CHOOSE, _CHOOSE_LOCAL = Kind.CHOOSE, Kind.CHOOSE_LOCAL
_DROP = Refusal.DROP


class Unrenderable(ValueError):
    """A port that must not reach the kernel: its name is none (`decode` should have refused it)."""


class Renderer:
    """Renders for one node and one family."""

    def __init__(self, node: NodeState, classes: Classes, slots: Slots | None = None) -> None:
        """See the module; ``classes`` gives a class that is new its code, ``slots`` knows who keeps his."""
        self._bits = node.family.host_bits
        self._codes = classes
        self._slots = slots or Slots({})

    def render(self, state: ServiceState, sheet: Sheet) -> None:
        """Add what one port asks for. Raises Unrenderable, and then has added nothing."""
        label = _label(state)
        protocol = state.name.protocol
        tail = _tail(protocol, state.port)
        if state.cluster_ip:
            address = packed_address(state.cluster_ip)
            sheet.elements[names.CLUSTER_IPS].append(Element(address))
            targets = state.local if state.internal_local else state.cluster
            self._enter(sheet, _ADDRESS, address + tail, _CLUSTER, targets, state, label)
            if not targets:
                self._refuse(sheet, _ADDRESS, address + tail, state.internal_refusal, label)
        if state.node_port or state.external_ips or state.load_balancer_ips:
            self._outside(sheet, state, tail, label)
        for target in state.nearby:
            own = packed_address(target.address)
            key = own + own + _tail(protocol, target.port)
            sheet.elements[names.HAIRPIN].append(Element(key))

    def _outside(self, sheet: Sheet, state: ServiceState, tail: bytes, label: str) -> None:
        """Add the ways from outside the cluster: external and load balancer addresses, node ports."""
        for address in state.load_balancer_ips:
            place = packed_address(address) + tail
            self._guard(sheet, state, address, place, label)
            self._exposed(sheet, _ADDRESS, place, state, label)
        for address in state.external_ips:
            self._exposed(sheet, _ADDRESS, packed_address(address) + tail, state, label)
        if state.node_port:
            place = _tail(state.name.protocol, state.node_port)
            self._exposed(sheet, _NODE_PORT, place, state, label)

    def _exposed(self, sheet: Sheet, way: Way, place: bytes, state: ServiceState, label: str) -> None:
        kind = _LOCAL if state.external_local else _MASQUERADE
        self._enter(sheet, way, place, kind, state.external, state, label)
        if not state.external:
            self._refuse(sheet, way, place, state.external_refusal, label)

    def _enter(
        self,
        sheet: Sheet,
        way: Way,
        place: bytes,
        kind: Kind,
        targets: Sequence[Target],
        state: ServiceState,
        label: str,
    ) -> None:
        """Add a place with its class, and the endpoints that it has."""
        own = _NAMES[way]
        if kind is _LOCAL and state.cluster:
            which = self._list(sheet, way, _PICK, own.cluster, place, state.cluster, state)
            sheet.classes.append(which)
            sheet.elements[own.short_circuits].append(Element(place, self._codes[which], label))
            which = self._list(sheet, way, _LOCAL, own.local, place, targets, state)
        elif targets:
            which = self._list(sheet, way, kind, own.cluster, place, targets, state)
        elif way is _ADDRESS:
            which = _NOBODYS
        else:
            return  # no rule comes after those of node ports
        sheet.classes.append(which)
        sheet.elements[own.services].append(Element(place, self._codes[which], label))

    def _list(
        self,
        sheet: Sheet,
        way: Way,
        kind: Kind,
        maps: ListMaps,
        place: bytes,
        targets: Sequence[Target],
        state: ServiceState,
    ) -> Class:
        """Add one of a place's lists of endpoints; return the class of packets that are to get one of it."""
        which, numbers = Class(way, kind, len(targets)), None
        if state.affinity_seconds and targets:
            numbers = self._slots.numbers(state)
            choice = Class(way, _CHOOSE_LOCAL if kind is _LOCAL else _CHOOSE, len(targets))
            sheet.classes.append(choice)
            sheet.elements[maps.sizes].append(Element(place, self._codes[choice]))
            which = Class(way, kind, 0, kept_seconds(state.affinity_seconds))
        listing = self._slots.ordered((state.name, targets is state.local), Listing(maps, place, targets, numbers))
        sheet.lists[listing.name, place] = listing
        return which

    def _refuse(self, sheet: Sheet, way: Way, place: bytes, refusal: Refusal | None, label: str) -> None:
        own = _NAMES[way]
        which = own.no_local if refusal is _DROP else own.no_endpoints
        sheet.elements[which].append(Element(place, None, label))

    def _guard(self, sheet: Sheet, state: ServiceState, address: str, place: bytes, label: str) -> None:
        """Add who may come through a load balancer's address; nothing where everybody may."""
        if not state.source_ranges:
            return
        admitted = state.source_ranges
        if state.node_in_ranges:
            # The node speaks to an address that it holds itself from that very address.
            admitted = (*admitted, f"{address}/{self._bits}")
        sheet.elements[names.GUARDED_IPS].append(Element(place, None, label))
        for length, networks in _by_length(admitted).items():
            sheet.lengths.append(length)
            sheet.elements.setdefault(set_of(length), []).extend([Element(place + each) for each in networks])


_NOBODYS = Class(_ADDRESS, Kind.UNTRANSLATED)

_tail = lru_cache(maxsize=65536)(node_port)
"""Protocol and port, behind an address."""


def _by_length(cidrs: Iterable[str]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for cidr in dict.fromkeys(cidrs):
        address, _, length = cidr.partition("/")
        found.setdefault(int(length), []).append(packed_address(address))
    return found


def _label(state: ServiceState) -> str:
    """Return what elements say of their Service."""
    namespace, name, port, _ = state.name
    label = f"{namespace}/{name}:{port}" if port else f"{namespace}/{name}"
    if _is_safe(label) is None:
        raise Unrenderable(f"{label[:80]!r} is no name of a Service port")
    if len(label) <= COMMENT_BYTES:
        return label
    end = sha256(label.encode()).hexdigest()[:16]
    return f"{label[: COMMENT_BYTES - 17]}~{end}"
