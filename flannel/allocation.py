"""Which subnet a node may take, and what is known of all leases. PURE: no store, no randomness of its own.

`LeaseBook` turns what the store says, a snapshot or events, into the same table either way: a consumer that
was disconnected and one that was not end with equal books. flannel's own diff of a snapshot reports only new
and vanished subnets, so a lease whose MAC or address changed meanwhile stays dead; here it is CHANGED.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from typing import Protocol

import msgspec

from flannel.lease import Lease, LeaseError, decode_lease
from flannel.netconf import NetConf
from kubeproxy.model.blocks import free_blocks
from kubeproxy.store.base import Event, EventType, KeyValue

CANDIDATES = 100
"""How many free subnets, lowest first, the random choice is made among: as many as flannel takes."""


class OutOfSubnets(Exception):
    """Every subnet between SubnetMin and SubnetMax is leased."""


class Chooser(Protocol):
    """The one thing needed of `random.Random`."""

    def randrange(self, stop: int, /) -> int:
        """Return one of 0 .. stop - 1."""
        ...


def choose_subnet(
    netconf: NetConf, taken: Iterable[IPv4Network], previous: IPv4Network | None, chooser: Chooser
) -> IPv4Network:
    """Pick the subnet to try: the one held before if it is free and fits, else a random free one.

    Raises `OutOfSubnets`.
    """
    used = list(taken)
    if previous is not None and netconf.fits(previous) and not any(map(previous.overlaps, used)):
        return previous
    free = list(islice(free_blocks(netconf.subnets(), used), CANDIDATES))
    if not free:
        raise OutOfSubnets(f"out of subnets: all from {netconf.subnet_min} to {netconf.subnet_max} are leased")
    return free[chooser.randrange(len(free))]


def lease_of(public_ip: IPv4Address, leases: Iterable[Lease]) -> Lease | None:
    """Return the lease that a node holds: nodes are told apart by their public address."""
    return next((lease for lease in leases if lease.attrs.public_ip == public_ip), None)


class ChangeKind(StrEnum):
    """What happened to a lease."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class LeaseChange(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two states of the book; of a removed lease, how it was last."""

    kind: ChangeKind
    lease: Lease

    def __str__(self) -> str:
        return f"subnet {self.lease.subnet} of node {self.lease.attrs.public_ip}: {self.kind}"


def changes_between(before: Mapping[str, Lease], now: Mapping[str, Lease]) -> tuple[LeaseChange, ...]:
    """Return how one state of all leases, by key, differs from another."""
    gone = (_removed(lease) for key, lease in before.items() if key not in now)
    return (*gone, *(change for key, lease in now.items() if (change := _change(before.get(key), lease))))


class LeaseBook:
    """Every lease in the store by key, one's own included, and what there was that is no lease."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.rejected: dict[str, str] = {}

    def reset(self, found: Iterable[KeyValue]) -> tuple[LeaseChange, ...]:
        """Take a complete listing and return how it differs from what was known."""
        before, self.leases = self.leases, {}
        self.rejected = {}
        for kv in found:
            self._take(kv)
        return changes_between(before, self.leases)

    def apply(self, events: Iterable[Event]) -> tuple[LeaseChange, ...]:
        """Take events in order and return what they changed."""
        changes = []
        for event in events:
            key = event.kv.key.decode(errors="replace")
            before = self.leases.pop(key, None)
            self.rejected.pop(key, None)
            if event.type is EventType.PUT:
                self._take(event.kv)
            now = self.leases.get(key)
            change = _change(before, now) if now else _removed(before) if before else None
            if change:
                changes.append(change)
        return tuple(changes)

    def _take(self, kv: KeyValue) -> None:
        key = kv.key.decode(errors="replace")
        try:
            self.leases[key] = decode_lease(key, kv.value, lease_id=kv.lease, revision=kv.mod_revision)
        except LeaseError as error:
            self.rejected[key] = str(error)


def _removed(lease: Lease) -> LeaseChange:
    return LeaseChange(kind=ChangeKind.REMOVED, lease=lease)


def _change(before: Lease | None, now: Lease) -> LeaseChange | None:
    if before is None:
        return LeaseChange(kind=ChangeKind.ADDED, lease=now)
    # A renewal writes the same attributes again: nothing that anybody has to act on.
    return LeaseChange(kind=ChangeKind.CHANGED, lease=now) if before.attrs != now.attrs else None
