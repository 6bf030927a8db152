"""The store contract: etcd v3's semantics, as a Protocol that every engine implements.

Everything above (Kubernetes objects, flannel's leases) is written against this page, so SQLite and etcd are
interchangeable. The words are etcd's (https://etcd.io/docs/v3.5/learning/api/): a *revision* counts
transactions on the whole store; all keys that one transaction writes share its revision; a key's *version*
counts its writes since it was created. Keys are ordered as bytes.

Every call may raise a `StoreError`; which kinds, and what a caller does about them, stands at each class.
"""

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Protocol

import msgspec


class StoreError(Exception):
    """Base of everything a store raises."""


class Unavailable(StoreError):
    """The store cannot be reached or did not answer in time: retry with back-off; a write may have happened."""


class NoSpace(Unavailable):
    """The store is full: the write did certainly not happen, reads go on; somebody must make room."""


class Compacted(StoreError):
    """The asked revision is gone: list anew and go on from there (``revision``: the oldest one still held)."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"required revision has been compacted; the oldest held is {revision}")
        self.revision = revision


class FutureRevision(StoreError):
    """The asked revision has not happened yet."""


class LeaseNotFound(StoreError):
    """The lease expired, was revoked, or never was."""


class LeaseExists(StoreError):
    """A lease was asked for under an id that is taken."""


class Refused(StoreError):
    """The request itself is wrong (a key put twice in one transaction, an empty key) or not permitted."""


class Unauthenticated(Refused):
    """The store does not take our name and password: no retry helps."""


class InvalidToken(Refused):
    """The token that says who asks has ended, or never was one."""


class PermissionDenied(Refused):
    """The user may not do this to these keys."""

    def __init__(self) -> None:
        super().__init__("permission denied")


class KeyValue(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A key as it stood at some revision."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Target(StrEnum):
    """What of a key a `Compare` looks at.

    A key that does not exist has 0 everywhere, and no value: as in etcd, every compare of its VALUE fails.
    """

    VERSION = "VERSION"
    CREATE = "CREATE"
    MOD = "MOD"
    VALUE = "VALUE"
    LEASE = "LEASE"


class Operator(StrEnum):
    """How a `Compare` compares."""

    EQUAL = "EQUAL"
    NOT_EQUAL = "NOT_EQUAL"
    GREATER = "GREATER"
    LESS = "LESS"


class Compare(msgspec.Struct, frozen=True, kw_only=True):
    """A condition of a transaction; all must hold for its success branch to run."""

    key: bytes
    target: Target
    operator: Operator = Operator.EQUAL
    value: int | bytes


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Read ``key``, or every key in [key, range_end) when range_end is not empty (b"\\0": no upper bound).

    ``revision`` 0 reads now; ``limit`` 0 is no limit; ``count_only`` returns only how many there are.
    """

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    keys_only: bool = False
    count_only: bool = False


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Write a key, attached to a lease when ``lease`` is not 0."""

    key: bytes
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a key or the range [key, range_end)."""

    key: bytes
    range_end: bytes = b""


Operation = Range | Put | Delete


class RangeResult(msgspec.Struct, frozen=True, kw_only=True):
    """``revision`` is the store's at the time of reading; ``count`` ignores the limit; ``more``: it cut."""

    revision: int
    kvs: tuple[KeyValue, ...] = ()
    count: int = 0
    more: bool = False


class PutResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one `Put` inside a transaction; ``previous`` is what it replaced."""

    previous: KeyValue | None = None


class DeleteResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one `Delete` inside a transaction: the keys that it removed."""

    previous: tuple[KeyValue, ...] = ()


OperationResult = RangeResult | PutResult | DeleteResult


class TxnResult(msgspec.Struct, frozen=True, kw_only=True):
    """``revision`` is the store's after the transaction (unchanged if it wrote nothing)."""

    revision: int
    succeeded: bool
    results: tuple[OperationResult, ...] = ()


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A granted lease; ``ttl`` in seconds, as granted."""

    id: int
    ttl: int


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``remaining`` and ``granted`` in seconds; remaining is -1 for a lease that does not exist."""

    id: int
    remaining: int
    granted: int
    keys: tuple[bytes, ...] = ()


class EventType(StrEnum):
    """What happened to a key."""

    PUT = "PUT"
    DELETE = "DELETE"


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One change. A DELETE's ``kv`` has the key, an empty value and the revision of the deletion."""

    type: EventType
    kv: KeyValue
    previous: KeyValue | None = None


class WatchBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Events in revision order, never cut inside a revision; no events: a progress mark up to ``revision``."""

    revision: int
    events: tuple[Event, ...] = ()


class Store(Protocol):
    """An engine. Calls may run concurrently from one event loop; none blocks it."""

    async def range(self, request: Range) -> RangeResult:
        """Read. Raises Compacted or FutureRevision for a revision that is not held."""
        ...

    async def txn(
        self,
        compare: tuple[Compare, ...],
        success: tuple[Operation, ...],
        failure: tuple[Operation, ...] = (),
    ) -> TxnResult:
        """Run one branch atomically at one new revision. Raises Refused for a key written twice in it."""
        ...

    def watch(self, key: bytes, range_end: bytes = b"", start_revision: int = 0) -> AsyncIterator[WatchBatch]:
        """Yield changes from ``start_revision`` on (0: from now), each with what it replaced.

        The first batch is a progress mark that says the watch stands. Raises Compacted when the start is no
        longer held (before or just after that mark), Unavailable when the stream breaks; the caller resumes at
        the last batch's revision + 1.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``; what is current stays readable."""
        ...

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """Grant a lease of ``ttl`` seconds, under a free id if none is given."""
        ...

    async def lease_keep_alive(self, lease_id: int) -> int:
        """Re-arm a lease and return its TTL in seconds. Raises LeaseNotFound."""
        ...

    async def lease_revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys in one revision. Raises LeaseNotFound."""
        ...

    async def lease_time_to_live(self, lease_id: int) -> LeaseStatus:
        """Say how long a lease still has and which keys hang on it."""
        ...

    async def lease_list(self) -> tuple[int, ...]:
        """Return the ids of all leases."""
        ...

    async def alarms(self) -> tuple[str, ...]:
        """Say what the store complains of, in etcd's words: NOSPACE (no write is taken), CORRUPT."""
        ...

    async def close(self) -> None:
        """Release the engine; watches end."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """Return the range_end that makes [prefix, range_end) hold exactly the keys that start with prefix."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


async def get(store: Store, key: bytes) -> KeyValue | None:
    """Read one key now, or None."""
    found = await store.range(Range(key=key))
    return found.kvs[0] if found.kvs else None


async def put(store: Store, key: bytes, value: bytes, lease: int = 0) -> int:
    """Write one key unconditionally and return the revision."""
    return (await store.txn((), (Put(key=key, value=value, lease=lease),))).revision


async def create(store: Store, key: bytes, value: bytes, lease: int = 0) -> int | None:
    """Write a key only if it does not exist; return the revision, or None when it does."""
    absent = Compare(key=key, target=Target.VERSION, value=0)
    result = await store.txn((absent,), (Put(key=key, value=value, lease=lease),))
    return result.revision if result.succeeded else None
