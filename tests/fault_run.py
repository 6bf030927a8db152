"""Writers and a watcher over links and servers that fail, and the account afterwards.

Every value is unique, so history tells of each write whether it happened, how often, and at which revision. The
account: what was acknowledged happened, once, at the revision that was told; what certainly was not sent did not
happen; a swap replaced just what it compared with; a read never showed less than an acknowledged write before it;
and the watcher, which resumed after every break, saw the same events as a quiet reader of the history.
"""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from kubeproxy.store.base import Compare, Event, EventType, Put, Range, Store, Target, Unavailable, get, put
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.etcd_calls import NotSent
from tests.fault_proxy import Fault, FaultProxy

PREFIX, END = b"run/", b"run0"
COUNTER = PREFIX + b"counter"
LINK_FAULTS = tuple(fault for fault in Fault if fault not in (Fault.NONE, Fault.NUISANCE))

Outage = Callable[[], Awaitable[None]]


@dataclass
class Account:
    """What the clients were told."""

    acknowledged: dict[bytes, int] = field(default_factory=dict)
    replaced: dict[bytes, int] = field(default_factory=dict)
    """By value of a swap: the revision that it compared with."""
    unknown: set[bytes] = field(default_factory=set)
    refuted: set[bytes] = field(default_factory=set)
    """Values of which we were told that they were not written."""
    events: list[Event] = field(default_factory=list)
    breaks: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.faults.total()} faults {dict(self.faults)}; {len(self.acknowledged)} writes acknowledged, "
            f"{len(self.unknown)} unknown, {len(self.refuted)} refuted; the watch broke {self.breaks} times and "
            f"saw {len(self.events)} events"
        )


class FaultRun:
    """One run. ``outages`` are faults of the servers themselves, for one in ten."""

    def __init__(
        self, proxies: Sequence[FaultProxy], outages: Sequence[tuple[str, Outage]], rng: random.Random
    ) -> None:
        self._proxies, self._outages, self._rng = proxies, outages, rng
        self._account = Account()
        self._values = itertools.count()

    async def __call__(self, faults: int, quiet: Store) -> Account:
        """Run, then check; ``quiet`` reaches the servers without faults."""
        urls = [proxy.url for proxy in self._proxies]
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(EtcdStore(urls, call_seconds=0.3, idle_seconds=0.2))
                for _ in range(4)
            ]
            watcher = asyncio.create_task(self._watch(clients[0]))
            writers = [asyncio.create_task(self._write(client)) for client in clients]
            for _ in range(faults):
                await self._fault()
            for task in writers:
                task.cancel()
            ended = await asyncio.gather(*writers, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
            last = await self._settled(quiet)
            async with asyncio.timeout(60):
                while not self._account.events or self._account.events[-1].kv.mod_revision < last:
                    assert not watcher.done(), watcher
                    await asyncio.sleep(0.02)
            watcher.cancel()
        self._check(await _history(quiet, last))
        return self._account

    async def _fault(self) -> None:
        rng = self._rng
        if self._outages and rng.random() < 0.1:
            name, outage = rng.choice(self._outages)
            await outage()
        else:
            fault = rng.choice(LINK_FAULTS)
            hit = list(self._proxies) if rng.random() < 0.5 else [rng.choice(self._proxies)]
            name = fault.value
            for proxy in hit:
                proxy.set(fault)
            await asyncio.sleep(rng.choice((0.02, 0.1, 0.5)))
            for proxy in hit:
                if rng.random() < 0.2:
                    proxy.sever()
                proxy.set(Fault.NONE)
        self._account.faults[name] += 1
        await asyncio.sleep(rng.uniform(0, 0.1))

    # The clients

    async def _write(self, client: EtcdStore) -> None:
        while True:
            value = b"%d" % next(self._values)
            key = PREFIX + b"%d" % self._rng.randrange(20)
            try:
                if self._rng.random() < 0.3:
                    await self._swap(client, value)
                else:
                    await self._told(value, put(client, key, value))
                    await self._read_back(client, key, self._account.acknowledged[value])
            except Unavailable:
                await asyncio.sleep(0.02)
            await asyncio.sleep(self._rng.uniform(0, 0.02))

    async def _told(self, value: bytes, write: Awaitable[int | None]) -> None:
        """Note what is told of a write; one that is given up in the middle is unknown."""
        self._account.unknown.add(value)
        try:
            revision = await write
        except NotSent:
            self._account.refuted.add(value)
            raise
        if revision is None:
            self._account.refuted.add(value)
        else:
            self._account.acknowledged[value] = revision

    async def _swap(self, client: EtcdStore, value: bytes) -> None:
        seen = await get(client, COUNTER)
        self._account.replaced[value] = found = seen.mod_revision if seen else 0

        async def swap() -> int | None:
            unchanged = Compare(key=COUNTER, target=Target.MOD, value=found)
            done = await client.txn((unchanged,), (Put(key=COUNTER, value=value),))
            return done.revision if done.succeeded else None

        await self._told(value, swap())

    async def _read_back(self, client: EtcdStore, key: bytes, written: int) -> None:
        found = await get(client, key)
        assert found is not None
        assert found.mod_revision >= written, "a read went back in time"

    async def _watch(self, client: EtcdStore) -> None:
        resume = 1
        while True:
            try:
                async for batch in client.watch(PREFIX, END, resume):
                    self._account.events += batch.events
                    resume = batch.revision + 1
            except Unavailable:
                self._account.breaks += 1
                await asyncio.sleep(0.01)

    # The account

    async def _settled(self, quiet: Store) -> int:
        """Wait out what partitions delivered late, then write the run's last event."""
        async with asyncio.timeout(30):
            before = -1
            while True:
                with contextlib.suppress(Unavailable):
                    now = (await quiet.range(Range(key=PREFIX, range_end=END, count_only=True))).revision
                    if now == before:
                        break
                    before = now
                await asyncio.sleep(0.5)
        return await put(quiet, PREFIX + b"end", b"end")

    def _check(self, history: list[Event]) -> None:
        account = self._account
        account.unknown -= account.acknowledged.keys() | account.refuted
        happened = {event.kv.value: event for event in history}
        assert len(happened) == len(history), "a write happened twice"
        for value, revision in account.acknowledged.items():
            assert value in happened, f"the acknowledged write {value!r} is lost"
            assert happened[value].kv.mod_revision == revision
        assert not account.refuted & happened.keys(), "a write happened of which the opposite was told"
        for value in account.replaced.keys() & happened.keys():
            previous = happened[value].previous
            assert (previous.mod_revision if previous else 0) == account.replaced[value]
        assert all(event.type is EventType.PUT for event in history)
        for seen, event in itertools.zip_longest(account.events, history):
            assert seen == event, "the watch missed an event, or saw one twice or out of order"


async def _history(quiet: Store, last: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(60):
        async for batch in quiet.watch(PREFIX, END, 1):
            events += batch.events
            if batch.revision >= last:
                return events
    raise AssertionError("the history ended early")
