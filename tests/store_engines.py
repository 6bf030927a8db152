"""Every implementation of the store contract, opened for a test: one table for the suites that run on all."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
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
    """Open an empty store of a kind (real etcd: not empty, only its own from `etcd_process`)."""
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def etcd_process() -> Iterator[str]:
    """Run Debian's etcd on loopback with a folder of its own; yield its URL."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("wb") as log:
        arguments = {
            "data-dir": f"{folder}/data",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        process = subprocess.Popen(
            ["etcd", *(f"--{name}={value}" for name, value in arguments.items())], stdout=log, stderr=log
        )
        try:
            _wait_healthy(client, process, Path(folder, "log"))
            yield client
        finally:
            process.kill()
            process.wait()


def _wait_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if b"true" in urllib.request.urlopen(f"{url}/health", timeout=1).read():
                return
        time.sleep(0.05)
    raise RuntimeError(f"etcd did not come up: {log.read_text()[-2000:]}")
