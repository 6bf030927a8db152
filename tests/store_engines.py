"""Every implementation of the store contract, opened for a test: one table for the suites that run on all."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import Store
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.gateway import gateway_app
from kubeproxy.store.sqlite import SqliteStore
from tests.fault_proxy import Fault, FaultProxy
from tests.patient_store import PatientStore

OURS = ("memory", "file", "gateway", "gateway with faults")
REAL = ("etcd", "etcd with faults")
SEED = int(os.environ.get("KUBEPROXY_SEED", "1"))
LONG = bool(os.environ.get("KUBEPROXY_LONG"))


def engine_params() -> list[object]:
    """pytest parameters: ours always, real etcd where it is installed, by itself and behind the fault proxy."""
    real = [pytest.param(name, marks=[pytest.mark.e2e, _needs_etcd()]) for name in REAL]
    return [*(pytest.param(name, marks=pytest.mark.unit) for name in OURS), *real]


def _needs_etcd() -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (Debian: etcd-server)")


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path, clock: ManualClock, etcd_url: str = "") -> AsyncIterator[Store]:
    """Open an empty store of a kind (real etcd: not empty, only its own from `tests.etcd_bed`)."""
    if kind in REAL:
        async with reached(etcd_url, faults=kind != "etcd") as store:
            yield store
        return
    path = folder / "store.db" if kind == "file" else ":memory:"
    async with await SqliteStore.open(path, clock=clock) as store:
        if kind in ("memory", "file"):
            yield store
            return
        async with served(store) as url, reached(url, faults=kind != "gateway") as client:
            yield client


@contextlib.asynccontextmanager
async def reached(url: str, *, faults: bool) -> AsyncIterator[Store]:
    """Connect to an etcd or a gateway; with faults by a link that delays and cuts."""
    if not faults:
        async with EtcdStore([url]) as store:
            yield store
        return
    async with FaultProxy(url, random.Random(SEED)).listening() as proxy:
        proxy.set(Fault.NUISANCE)
        async with EtcdStore([proxy.url]) as store:
            yield PatientStore(store)


@contextlib.asynccontextmanager
async def served(store: Store, port: int = 0, **times: float) -> AsyncIterator[str]:
    """Serve a store by the gateway on loopback; yield its URL."""
    # As in the API server: no access log, and a client that leaves ends what was done for it.
    runner = web.AppRunner(gateway_app(store, **times), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def reset_in_mid_request(url: str, path: str) -> None:
    """Send a POST's head and a part of its body, then reset the connection."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    await asyncio.sleep(0.05)  # The server is to be in the middle of the body.
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    await asyncio.sleep(0.05)
