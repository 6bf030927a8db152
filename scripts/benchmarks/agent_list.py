"""What an agent pays to know a large cluster: N Services and 2N EndpointSlices of ten endpoints, listed once.

A real API server on SQLite, filled through the API. Each reader is a process of its own that lists both kinds and
keeps what it got: our informers with their World, by a watch's initial events and by pages, and the official
client. Seconds are from the first request to everything known; CPU is the process's own for that; memory is what
it holds afterwards, and what of that it held before it began.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

READERS = ("informers, initial events", "informers, pages", "official client")
ENDPOINTS = 10


def slices_of(number: int) -> list[dict[str, Any]]:
    """Two full-sized slices of one Service, with what a controller writes into them."""
    name = f"svc-{number}"
    return [
        {
            "metadata": {
                "name": f"svc-{number}-{part}",
                "labels": {"kubernetes.io/service-name": f"svc-{number}"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [f"10.{128 + part * ENDPOINTS + i}.{number // 250}.{number % 250 + 1}"],
                    "conditions": {"ready": True, "serving": True, "terminating": False},
                    "nodeName": f"node-{(number + i) % 500}",
                    "zone": f"zone-{i % 3}",
                    "targetRef": {
                        "kind": "Pod",
                        "namespace": "default",
                        "name": f"{name}-7d9f8c6b5-{i:05d}",
                    },
                }
                for i in range(ENDPOINTS)
            ],
        }
        for part in range(2)
    ]


async def fill(client: Any, count: int) -> None:
    from agent import objects
    from api import by_writers

    from kubeproxy.store.resources import ENDPOINT_SLICES, SERVICES

    async def post(number: int) -> None:
        await client.create(SERVICES, "default", objects(number)[0])
        for piece in slices_of(number):
            await client.create(ENDPOINT_SLICES, "default", piece)

    await by_writers(count, post)


async def measure(count: int) -> list[dict[str, Any]]:
    """Return a row for every reader."""
    from api import bed

    async with bed("sqlite") as (client, _, _):
        await fill(client, count)
        rows = []
        for reader in READERS:
            argv = [sys.executable, __file__, "--reader", reader, "--server", client.server]
            process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
            printed, _ = await process.communicate()
            rows.append({"what": f"list: {reader}", "services": count, **json.loads(printed)})
        return rows


def rss_mib() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def timed(before: float, work: Callable[[], object]) -> dict[str, Any]:
    """Run a reader's work; what it returns is held until the memory is read."""
    wall, cpu = time.perf_counter(), time.process_time()
    held = work()
    figures = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    gc.collect()
    figures |= {"rss_mib": rss_mib(), "before_mib": before}
    del held
    return figures


def official(server: str) -> dict[str, Any]:
    from kubernetes import client

    configuration = client.Configuration(host=server)
    api = client.ApiClient(configuration)
    before = rss_mib()

    def work() -> object:
        services = client.CoreV1Api(api).list_service_for_all_namespaces()
        return services, client.DiscoveryV1Api(api).list_endpoint_slice_for_all_namespaces()

    return timed(before, work)


def ours(server: str, streamed: bool) -> dict[str, Any]:
    from kubeproxy.clock import SystemClock
    from kubeproxy.following import OUR_SERVICES, OUR_SLICES
    from kubeproxy.model.decode import decode_proxy_slice, decode_service
    from kubeproxy.model.objects import key_of
    from kubeproxy.model.world import World
    from kubeproxy.store.informer import Informer
    from kubeproxy.store.kube import KubeClient, StreamingUnsupported, WatchEvent
    from kubeproxy.store.resources import ENDPOINT_SLICES, SERVICES, Resource

    class Paged(KubeClient):
        def watch(self, resource: Resource, revision: str, **scope: Any) -> AsyncIterator[WatchEvent]:
            if not revision:
                raise StreamingUnsupported("as an older server")
            return super().watch(resource, revision, **scope)

    world = World()
    before = rss_mib()

    async def follow() -> object:
        synced = [asyncio.Event(), asyncio.Event()]
        async with KubeClient(server) if streamed else Paged(server) as client:
            common: dict[str, Any] = {"clock": SystemClock(), "key_of": key_of}
            informers = [
                Informer(client, SERVICES, decode_service, on_change=world.apply_services,
                         on_synced=synced[0].set, label_selector=OUR_SERVICES, **common),
                Informer(client, ENDPOINT_SLICES, decode_proxy_slice, on_change=world.apply_slices,
                         on_synced=synced[1].set, label_selector=OUR_SLICES, **common),
            ]  # fmt: skip
            tasks = [asyncio.create_task(informer.run()) for informer in informers]
            for event in synced:
                await event.wait()
            for task in tasks:
                task.cancel()
            return informers

    return timed(before, lambda: asyncio.run(follow()))


def read(reader: str, server: str) -> dict[str, Any]:
    if reader == READERS[2]:
        return official(server)
    return ours(server, streamed=reader == READERS[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reader", required=True, choices=READERS)
    parser.add_argument("--server", required=True)
    given = parser.parse_args()
    print(json.dumps(read(given.reader, given.server)))
