"""Every implementation of the store contract, opened for a test: one table for the suites that run on all."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from kubeproxy.clock import ManualClock
from kubeproxy.store.base import Store
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.gateway import gateway_app
from kubeproxy.store.sqlite import SqliteStore

OURS = ("memory", "file", "gateway")
LONG = bool(os.environ.get("KUBEPROXY_LONG"))


def engine_params() -> list[object]:
    """pytest parameters: ours always, real etcd where it is installed."""
    etcd = pytest.param("etcd", marks=[pytest.mark.e2e, _needs_etcd()])
    return [*(pytest.param(name, marks=pytest.mark.unit) for name in OURS), etcd]


def _needs_etcd() -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (Debian: etcd-server)")


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path, clock: ManualClock, etcd_url: str = "") -> AsyncIterator[Store]:
    """Open an empty store of a kind (real etcd: not empty, only its own from `tests.etcd_bed`)."""
    if kind == "etcd":
        async with EtcdStore([etcd_url]) as store:
            yield store
        return
    path = folder / "store.db" if kind == "file" else ":memory:"
    async with await SqliteStore.open(path, clock=clock) as store:
        if kind != "gateway":
            yield store
            return
        async with served(store) as url, EtcdStore([url]) as client:
            yield client


@contextlib.asynccontextmanager
async def served(store: Store, port: int = 0, **times: float) -> AsyncIterator[str]:
    """Serve a store by the gateway on loopback; yield its URL."""
    runner = web.AppRunner(gateway_app(store, **times))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
