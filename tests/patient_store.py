"""A client as the contract wants it: one that asks again when the store was away, and resumes its watches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from kubeproxy.store.base import Store, Unavailable, WatchBatch

T = TypeVar("T")


class PatientStore:
    """A `Store` over a link that breaks, for calls that may be repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closed = False

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return lambda *arguments: self._repeat(getattr(self._store, name), *arguments)

    async def _repeat(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        while True:
            try:
                return await call(*arguments)
            except Unavailable:
                await asyncio.sleep(0.001)

    async def watch(
        self, key: bytes, range_end: bytes = b"", start_revision: int = 0
    ) -> AsyncIterator[WatchBatch]:
        first = True
        while not self._closed:
            try:
                async for batch in self._store.watch(key, range_end, start_revision):
                    start_revision = batch.revision + 1
                    if first or batch.events:
                        yield batch
                    first = False
            except Unavailable:
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        self._closed = True
        await self._store.close()
