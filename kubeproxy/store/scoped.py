"""A store as one user sees it: the keys below a prefix, and `PermissionDenied` for all others. Pure."""

from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from kubeproxy.store.base import (
    Compare,
    Lease,
    LeaseNotFound,
    LeaseStatus,
    Operation,
    PermissionDenied,
    Put,
    Range,
    RangeResult,
    Store,
    TxnResult,
    WatchBatch,
    prefix_end,
)

REVISION = Range(key=b"\0", count_only=True)
"""Asks for the store's revision alone: no key has this name, and everybody may know it."""


class ScopedStore:
    """`Store` for the keys that start with ``prefix``; a lease is anybody's while no foreign key hangs on it."""

    def __init__(self, store: Store, prefix: bytes) -> None:
        self._store = store
        self._prefix = prefix

    async def range(self, request: Range) -> RangeResult:
        """See `Store.range`. Raises PermissionDenied."""
        if request != REVISION:
            self._check(request.key, request.range_end)
        return await self._store.range(request)

    async def txn(
        self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...] = ()
    ) -> TxnResult:
        """See `Store.txn`. Raises PermissionDenied."""
        for condition in compare:
            self._check(condition.key)
        for operation in (*success, *failure):
            self._check(operation.key, b"" if isinstance(operation, Put) else operation.range_end)
        # As etcd: who could hang a key of his own on another's lease would take it out of that other's hands.
        for lease in {each.lease for each in (*success, *failure) if isinstance(each, Put) and each.lease}:
            with suppress(LeaseNotFound):
                await self._own_lease(lease)
        return await self._store.txn(compare, success, failure)

    async def watch(
        self, key: bytes, range_end: bytes = b"", start_revision: int = 0
    ) -> AsyncIterator[WatchBatch]:
        """See `Store.watch`. Raises PermissionDenied."""
        self._check(key, range_end)
        async for batch in self._store.watch(key, range_end, start_revision):
            yield batch

    async def compact(self, revision: int) -> None:
        """Refuse: history is everybody's."""
        raise PermissionDenied

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """See `Store.lease_grant`."""
        return await self._store.lease_grant(ttl, lease_id)

    async def lease_keep_alive(self, lease_id: int) -> int:
        """See `Store.lease_keep_alive`."""
        await self._own_lease(lease_id)
        return await self._store.lease_keep_alive(lease_id)

    async def lease_revoke(self, lease_id: int) -> None:
        """See `Store.lease_revoke`. Raises PermissionDenied for a lease that holds a foreign key."""
        await self._own_lease(lease_id)
        await self._store.lease_revoke(lease_id)

    async def lease_time_to_live(self, lease_id: int) -> LeaseStatus:
        """See `Store.lease_time_to_live`. Raises PermissionDenied for a lease that holds a foreign key."""
        return await self._own_lease(lease_id)

    async def lease_list(self) -> tuple[int, ...]:
        """Refuse: they are everybody's."""
        raise PermissionDenied

    async def alarms(self) -> tuple[str, ...]:
        """See `Store.alarms`."""
        return await self._store.alarms()

    async def close(self) -> None:
        """Leave the store open: it is not ours."""

    async def _own_lease(self, lease_id: int) -> LeaseStatus:
        status = await self._store.lease_time_to_live(lease_id)
        self._check_all(status.keys)
        return status

    def _check_all(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._check(key)

    def _check(self, key: bytes, range_end: bytes = b"") -> None:
        if not key.startswith(self._prefix) or (range_end and not self._ends_within(range_end)):
            raise PermissionDenied

    def _ends_within(self, range_end: bytes) -> bool:
        end = prefix_end(self._prefix)
        return end == b"\0" or (range_end != b"\0" and range_end <= end)
