"""The API server over each store: N Services and N EndpointSlices created, listed and watched.

Real processes on loopback: `kubeproxy apiserver` on SQLite and on etcd, driven by our own client from this
process. Each figure stands beside the bare store doing the same in the same run: the same bytes put under the same
condition by as many writers, the same range read, the same put seen by a watch of the store.
"""

import asyncio
import contextlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec
from agent import objects
from meter import resident_mib

from kubeproxy.store.base import Put, Range, Store, Unavailable, create, prefix_end
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, SERVICES
from kubeproxy.store.sqlite import SqliteStore

STORES = ("sqlite", "etcd")
WRITERS = 16
CHANGES = 1000
PAUSE_SECONDS = 0.005
DEADLINE_SECONDS = 30.0
BARE = b"/bench/"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One row: times in seconds; ``rss_mib`` the API server's resident memory, after the step."""

    what: str
    store: str
    p50: float
    p99: float | None = None
    floor: float
    rss_mib: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait()


async def answering(ask: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            await ask()
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def bed(store: str) -> AsyncIterator[tuple[KubeClient, Store, int]]:
    """Yield a client of an API server on an empty store, a bare store of the same kind, and the server's pid."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if store == "etcd":
            url, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
            arguments = {
                "data-dir": f"{folder}/etcd",
                "listen-client-urls": url,
                "advertise-client-urls": url,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": f"default={peer}",
            }
            stack.enter_context(process("etcd", *(f"--{key}={value}" for key, value in arguments.items())))
            where, bare = url, await stack.enter_async_context(EtcdStore([url]))
            await answering(lambda: bare.range(Range(key=b"x")))
        else:
            where = f"sqlite:{folder}/api.db"
            bare = await stack.enter_async_context(await SqliteStore.open(f"{folder}/bare.db"))
        port = free_port()
        server = stack.enter_context(
            process(sys.executable, "-m", "kubeproxy", "apiserver", f"--store={where}", f"--port={port}")
        )
        client = await stack.enter_async_context(KubeClient(f"http://127.0.0.1:{port}"))
        await answering(lambda: client.list(SERVICES))
        yield client, bare, server.pid


async def by_writers(numbers: int, write: Callable[[int], Awaitable[object]]) -> float:
    """Do ``write(0)`` to ``write(numbers - 1)``, a few at a time; return the seconds."""
    left = iter(range(numbers))

    async def work() -> None:
        for number in left:
            await write(number)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WRITERS)))
    return time.perf_counter() - began


async def create_figures(client: KubeClient, bare: Store, count: int) -> tuple[float, float]:
    pairs = [objects(number) for number in range(count)]
    encoded = [tuple(msgspec.json.encode(part) for part in pair) for pair in pairs]

    async def post(number: int) -> None:
        service, piece = pairs[number]
        await client.create(SERVICES, "default", service)
        await client.create(ENDPOINT_SLICES, "default", piece)

    async def put(number: int) -> None:
        for kind, value in zip((b"s", b"e"), encoded[number], strict=True):
            await create(bare, BARE + kind + b"/%d" % number, value)

    return await by_writers(count, post), await by_writers(count, put)


async def list_figures(client: KubeClient, bare: Store) -> tuple[float, float]:
    ours, floor = [], []
    for _ in range(3):
        began = time.perf_counter()
        await client.list(ENDPOINT_SLICES)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        prefix = BARE + b"e/"
        await bare.range(Range(key=prefix, range_end=prefix_end(prefix)))
        floor.append(time.perf_counter() - began)
    return statistics.median(ours), statistics.median(floor)


async def delays(
    stream: AsyncIterator[str], write: Callable[[str], Awaitable[object]], changes: int
) -> list[float]:
    """Write marks one by one; return how long each took from the write's beginning to its being seen."""
    sent: dict[str, float] = {}
    found: list[float] = []
    standing = asyncio.Event()

    async def follow() -> None:
        async for mark in stream:
            standing.set()
            if mark in sent:
                found.append(time.perf_counter() - sent.pop(mark))
            if len(found) == changes:
                return

    task = asyncio.create_task(follow())
    await standing.wait()
    for number in range(changes):
        mark = str(number)
        sent[mark] = time.perf_counter()
        await write(mark)
        await asyncio.sleep(PAUSE_SECONDS)
    await asyncio.wait_for(task, DEADLINE_SECONDS)
    return found


async def watch_figures(client: KubeClient, bare: Store, changes: int) -> tuple[list[float], list[float]]:
    listing = await client.list(SERVICES)

    async def marks() -> AsyncIterator[str]:
        async for event in client.watch(SERVICES, listing.revision):
            meta = msgspec.json.decode(event.object)["metadata"] if event.object else {}
            yield (meta.get("annotations") or {}).get("mark", "")

    async def bare_marks() -> AsyncIterator[str]:
        async for batch in bare.watch(BARE + b"mark"):
            for event in batch.events or (None,):
                yield event.kv.value.decode() if event else ""

    async def patch(mark: str) -> None:
        await client.patch(SERVICES, "default", "svc-0", {"metadata": {"annotations": {"mark": mark}}})

    async def put(mark: str) -> None:
        await bare.txn((), (Put(key=BARE + b"mark", value=mark.encode()),))

    return await delays(marks(), patch, changes), await delays(bare_marks(), put, changes)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def _measure(store: str, count: int) -> list[Figures]:
    async with bed(store) as (client, bare, pid):
        made, made_floor = await create_figures(client, bare, count)
        rows = [
            Figures(
                what="create N Services, N slices",
                store=store,
                p50=made,
                floor=made_floor,
                rss_mib=resident_mib(pid),
            )
        ]
        listed, listed_floor = await list_figures(client, bare)
        rows.append(
            Figures(what="list N slices", store=store, p50=listed, floor=listed_floor, rss_mib=resident_mib(pid))
        )
        seen, seen_floor = await watch_figures(client, bare, CHANGES)
        rows.append(
            Figures(
                what="patch to watch event",
                store=store,
                p50=quantile(seen, 0.5),
                p99=quantile(seen, 0.99),
                floor=quantile(seen_floor, 0.5),
                rss_mib=resident_mib(pid),
            )
        )
        return rows


def measure(count: int) -> list[Figures]:
    """Measure every store with ``count`` Services and as many slices."""
    return [row for store in STORES for row in asyncio.run(_measure(store, count))]


if __name__ == "__main__":
    for row in measure(int(sys.argv[1])):
        print(row)
