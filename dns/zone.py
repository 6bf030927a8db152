"""PURE: the records of all Services as one zone: fills the answer table, decides what the table cannot.

In: `ServiceRecords` by Service, namespaces, our own addresses, the time. Out: entries of an `AnswerTable`
(written only for the names that changed) and, for the plugin chain, `Found`.

Forward names belong to one Service; reverse names may belong to several, and shared parents (`ns.svc`) to many,
so the former are counted by owner and the latter by reference.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import TypeVar

import msgspec

from dns.answers import AnswerTable
from dns.names import BadName, is_below, reverse_name, to_wire
from dns.records import (
    DEFAULT_OPTIONS,
    SPEC_VERSION,
    Options,
    RRsets,
    ServiceRecords,
    Srv,
    address_of_label,
    address_type,
    service_records,
)
from dns.rrtypes import Rcode, Type
from dns.wire import Answer, Glue, address_answer, name_answer, question_of, soa_answer, srv_answer, txt_answer
from kubeproxy.model.objects import EndpointSlice, Service

Key = tuple[str, str]
T = TypeVar("T")

DEFAULT_TTL = 5
VERSION_TTL = 28800
"""TTL of TXT dns-version, as the specification's example has it."""

_NO_RECORDS = ServiceRecords()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the Corefile's kubernetes block says about the records."""

    zones: tuple[str, ...]
    """Forward zones; the first one is the suffix of PTR targets."""
    reverse_zones: tuple[str, ...] = ()
    ttl: int = DEFAULT_TTL
    pods_insecure: bool = False
    namespaces: frozenset[str] = frozenset()
    """The exposed ones; empty: all."""
    options: Options = DEFAULT_OPTIONS


class Found(msgspec.Struct, frozen=True):
    """What the zone says about a question."""

    rcode: Rcode
    answer: Answer | None = None
    """None with NOERROR: the name exists and lacks the type."""
    alias: str = ""
    """Absolute target of an ExternalName Service; ``answer`` is then its CNAME record."""


_NODATA = Found(Rcode.NOERROR)
_NXDOMAIN = Found(Rcode.NXDOMAIN)


class ClusterZone:
    """One kubernetes plugin instance's records."""

    def __init__(self, settings: Settings, *, rotate: bool = False) -> None:
        self.settings = settings
        self._zones = {zone: to_wire(zone) for zone in settings.zones}
        self.table = AnswerTable(tuple(self._zones.values()), rotate=rotate)
        self.skipped = 0
        """Names that did not fit into 255 bytes and so have no records."""
        self._services: dict[Key, ServiceRecords] = {}
        self._virtual: dict[str, dict[Key, str]] = {}
        self._endpoints: dict[str, dict[Key, tuple[str, ...]]] = {}
        self._aliases: dict[bytes, str] = {}
        self._namespaces: set[str] = set()
        self._servers: tuple[str, ...] = ()
        self._first = settings.zones[0]
        for name in ("", "svc", "pod", "dns", "ns.dns", "dns-version"):
            self._add_name(name)
        for zone, wire in self._zones.items():
            version = self._owner("dns-version", zone)
            if version:
                self.table.answers[question_of(version, Type.TXT)] = txt_answer(SPEC_VERSION, VERSION_TTL)
            self.table.deferred.add(b"\3pod" + wire)
        self.touch(0)

    # --- changes

    def set_service(self, key: Key, service: Service | None, slices: Sequence[EndpointSlice]) -> bool:
        """Take one Service as it is now; return whether any record changed."""
        if not self._exposed(key[0]):
            return False
        new = service_records(service, slices, self.settings.options)
        old = self._services.get(key, _NO_RECORDS)
        if new == old:
            return False
        if new == _NO_RECORDS:
            del self._services[key]
        else:
            self._services[key] = new
        self._replace_names(old, new)
        self._replace_pointers(key, old, new)
        return True

    def set_namespace(self, name: str, present: bool) -> bool:
        """Say that a namespace exists or no longer does; return whether that is news."""
        if not self._exposed(name) or (name in self._namespaces) == present:
            return False
        change = self._add_name if present else self._drop_name
        change(f"{name}.svc")
        if self.settings.pods_insecure:
            change(f"{name}.pod")
        (self._namespaces.add if present else self._namespaces.discard)(name)
        return True

    def set_servers(self, addresses: Sequence[str]) -> None:
        """Say at which addresses this server is reached: what NS at the apex is about."""
        self._servers = tuple(dict.fromkeys(str(ip_address(text)) for text in addresses))
        self._encode_apex()

    def touch(self, serial: int) -> None:
        """End a batch of changes: the SOA gets a new serial (Unix time), the apex its name servers."""
        self.table.set_soa(serial, self.settings.ttl)
        self._soa = (serial, self.settings.ttl)
        self._encode_apex()

    def _exposed(self, namespace: str) -> bool:
        return not self.settings.namespaces or namespace in self.settings.namespaces

    # --- questions

    def look_up(self, name: bytes, kind: int, zone: str) -> Found:
        """Answer a question (wire name, lower case) about a name in one of the zones, forward or reverse."""
        answer = self.table.answers.get(question_of(name, kind))
        if answer is not None:
            return Found(Rcode.NOERROR, answer)
        alias = self._aliases.get(name)
        if alias is not None:
            return Found(Rcode.NOERROR, self.table.answers[question_of(name, Type.CNAME)], alias)
        if name in self.table.names:
            return _NODATA
        if self.settings.pods_insecure and zone in self._zones:
            return self._pod(name, kind, self._zones[zone])
        return _NXDOMAIN

    def denial(self, name: bytes, zone: str) -> Answer:
        """Return the SOA of a zone, forward or reverse, as the proof of a negative answer about a name."""
        wire = self._zones.get(zone)
        if wire is not None:
            return self.table.denial(wire, name)
        return soa_answer(to_wire(zone), name, *self._soa)

    def _pod(self, name: bytes, kind: int, zone: bytes) -> Found:
        """Pod names of `pods insecure`: any address in an existing namespace, nothing is checked."""
        suffix = b"\3pod" + zone
        labels = name.removesuffix(suffix)
        if len(labels) == len(name) or not labels:
            return _NXDOMAIN
        size = labels[0]
        label, rest = labels[1 : 1 + size], labels[1 + size :]
        if not rest or rest[0] + 1 != len(rest) or name[1 + size :] not in self.table.names:
            return _NXDOMAIN
        address = address_of_label(label.decode("ascii", "replace"))
        if address is None:
            return _NXDOMAIN
        if address_type(address) != kind:
            return _NODATA
        return Found(Rcode.NOERROR, address_answer(address_type(address), (address,), self.settings.ttl))

    # --- forward names

    def _owner(self, relative: str, zone: str) -> bytes | None:
        try:
            return to_wire(f"{relative}.{zone}" if relative and zone != "." else relative or zone)
        except BadName:
            self.skipped += 1
            return None

    def _owners(self, relative: str) -> Iterable[tuple[bytes, str]]:
        for zone in self._zones:
            owner = self._owner(relative, zone)
            if owner is not None:
                yield owner, zone

    def _add_name(self, relative: str) -> None:
        for owner, _ in self._owners(relative):
            self.table.names[owner] = self.table.names.get(owner, 0) + 1

    def _drop_name(self, relative: str) -> None:
        for owner, _ in self._owners(relative):
            self.table.names[owner] -= 1
            if not self.table.names[owner]:
                del self.table.names[owner]

    def _replace_names(self, old: ServiceRecords, new: ServiceRecords) -> None:
        for relative, sets in old.names.items():
            if relative not in new.names:
                self._drop_sets(relative, sets)
                self._drop_name(relative)
        for relative, sets in new.names.items():
            before = old.names.get(relative)
            if before is None:
                self._add_name(relative)
            # SRV answers carry the addresses of other names, so those are always written anew.
            if before != sets or Type.SRV in sets:
                gone = {kind: values for kind, values in (before or {}).items() if kind not in sets}
                self._drop_sets(relative, gone)
                self._write_sets(relative, sets, new)

    def _drop_sets(self, relative: str, sets: RRsets) -> None:
        for owner, _ in self._owners(relative):
            for kind in sets:
                self.table.answers.pop(question_of(owner, kind), None)
            if Type.CNAME in sets:
                self._aliases.pop(owner, None)
                self.table.deferred.discard(owner)

    def _write_sets(self, relative: str, sets: RRsets, records: ServiceRecords) -> None:
        ttl = self.settings.ttl
        for owner, zone in self._owners(relative):
            for kind, values in sets.items():
                if kind in (Type.A, Type.AAAA):
                    answer = address_answer(kind, [str(value) for value in values], ttl)
                elif kind is Type.SRV:
                    answer = self._srv(owner, zone, values, records)
                else:
                    target = str(values[0])
                    answer = name_answer(owner, kind, [to_wire(target)], ttl)
                    self._aliases[owner] = target
                    self.table.deferred.add(owner)
                self.table.answers[question_of(owner, kind)] = answer

    def _srv(self, owner: bytes, zone: str, values: Iterable[object], records: ServiceRecords) -> Answer:
        found = []
        glue: list[tuple[bytes, Type, str]] = []
        seen = set()
        for value in values:
            assert isinstance(value, Srv)
            target = self._owner(value.target, zone)
            if target is None:
                continue
            found.append((value.priority, value.weight, value.port, target))
            if target not in seen:
                seen.add(target)
                glue += _glue(target, records.names.get(value.target, {}))
        return srv_answer(owner, found, glue, self.settings.ttl)

    # --- reverse names

    def _replace_pointers(self, key: Key, old: ServiceRecords, new: ServiceRecords) -> None:
        touched = set()
        for address in old.virtual.keys() | new.virtual.keys():
            if _move(self._virtual, address, key, old.virtual.get(address), new.virtual.get(address)):
                touched.add(address)
        for address in old.endpoints.keys() | new.endpoints.keys():
            if _move(self._endpoints, address, key, old.endpoints.get(address), new.endpoints.get(address)):
                touched.add(address)
        for address in touched:
            self._write_pointer(address)

    def _write_pointer(self, address: str) -> None:
        name = reverse_name(address)
        if not any(is_below(name, zone) for zone in self.settings.reverse_zones):
            return
        owner = to_wire(name)
        targets = list(dict.fromkeys(self._targets(address)))
        if targets:
            self.table.names[owner] = 1
            answer = name_answer(owner, Type.PTR, targets, self.settings.ttl)
            self.table.answers[question_of(owner, Type.PTR)] = answer
        else:
            self.table.names.pop(owner, None)
            self.table.answers.pop(question_of(owner, Type.PTR), None)

    def _targets(self, address: str) -> Iterable[bytes]:
        virtual = self._virtual.get(address)
        if virtual:
            relative = [virtual[min(virtual)]]
        else:
            by_service = self._endpoints.get(address, {})
            relative = [target for key in sorted(by_service) for target in by_service[key]]
        for target in relative:
            owner = self._owner(target, self._first)
            if owner is not None:
                yield owner

    # --- the apex

    def _encode_apex(self) -> None:
        for zone, wire in self._zones.items():
            question = question_of(wire, Type.NS)
            self.table.answers.pop(question, None)
            own = self._owner("ns.dns", zone)
            if own is None:
                continue
            own_sets = _addresses_by_type(self._servers)
            for kind in (Type.A, Type.AAAA):
                self.table.answers.pop(question_of(own, kind), None)
                if kind in own_sets:
                    answer = address_answer(kind, [str(value) for value in own_sets[kind]], self.settings.ttl)
                    self.table.answers[question_of(own, kind)] = answer
            servers = self._name_servers(zone) or ({own: own_sets} if own_sets else {})
            if servers:
                glue = [entry for target, sets in servers.items() for entry in _glue(target, sets)]
                self.table.answers[question] = name_answer(wire, Type.NS, list(servers), self.settings.ttl, glue)

    def _name_servers(self, zone: str) -> dict[bytes, RRsets]:
        """The Services that have one of our own addresses as an endpoint: they are the zone's servers."""
        found: dict[bytes, RRsets] = {}
        for address in self._servers:
            for namespace, name in sorted(self._endpoints.get(address, {})):
                relative = f"{name}.{namespace}.svc"
                sets = self._services[(namespace, name)].names.get(relative)
                owner = self._owner(relative, zone) if sets else None
                if sets and owner is not None:
                    found[owner] = sets
        return found


def _glue(owner: bytes, sets: RRsets) -> Glue:
    return [(owner, kind, str(value)) for kind in (Type.A, Type.AAAA) for value in sets.get(kind, ())]


def _addresses_by_type(addresses: Iterable[str]) -> RRsets:
    sets: dict[Type, tuple[str | Srv, ...]] = {}
    for address in addresses:
        kind = address_type(address)
        sets[kind] = (*sets.get(kind, ()), address)
    return sets


def _move(index: dict[str, dict[Key, T]], address: str, key: Key, old: T | None, new: T | None) -> bool:
    """Put what a Service says about an address in place of what it said before; return whether it differs."""
    if old == new:
        return False
    if new is not None:
        index.setdefault(address, {})[key] = new
        return True
    owners = index[address]
    del owners[key]
    if not owners:
        del index[address]
    return True
