"""API servers that are killed: another one's controllers take over, and a lone one's go on at once."""

import asyncio
import contextlib
import signal
import sys
import time

import pytest

from kubeproxy.clock import SystemClock
from kubeproxy.store.base import StoreError
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, LEASES, NAMESPACES, SERVICES
from kubeproxy.store.sqlite import SqliteStore
from tests.etcd_bed import free_port
from tests.store_engines import served

pytestmark = pytest.mark.e2e

LEASE_NAME = "kube-controller-manager"
SERVICE = {"spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}}


class Server:
    """One `kubeproxy apiserver` process."""

    def __init__(self, store, log, port=0):
        self.port = port or free_port()
        self.client = KubeClient(f"http://127.0.0.1:{self.port}")
        self._command = ("-m", "kubeproxy", "apiserver", f"--store={store}", f"--port={self.port}")
        self._log = log
        self.process = None

    async def start(self):
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *self._command, stdout=log, stderr=log
            )
        await eventually(self.holder)

    async def end(self, number=signal.SIGKILL):
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    async def holder(self):
        lease = await self.client.get(LEASES, "kube-system", LEASE_NAME)
        return lease["spec"].get("holderIdentity")

    async def has_slices(self, name):
        found = await self.client.list(ENDPOINT_SLICES, label_selector=f"kubernetes.io/service-name={name}")
        return bool(found.items)


async def eventually(check, seconds=30):
    """Poll until ``check`` returns something true; return how long it took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(StoreError):
                if await check():
                    return time.monotonic() - started
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def servers(*all_of_them):
    try:
        for each in all_of_them:
            await each.start()
        yield
    finally:
        for each in all_of_them:
            await each.end()
            await each.client.close()


async def make(client, name):
    await client.create(SERVICES, "default", {**SERVICE, "metadata": {"name": name}})


async def test_of_two_servers_one_acts_and_the_other_takes_over(tmp_path):
    async with await SqliteStore.open(tmp_path / "store.db", clock=SystemClock()) as store, served(store) as url:
        first, second = (Server(url, tmp_path / f"{name}.log") for name in ("first", "second"))
        async with servers(first, second):
            leader = await first.holder()
            await make(second.client, "before")  # through the one that does not act
            await eventually(lambda: second.has_slices("before"))
            await first.end()
            await make(second.client, "after")
            await second.client.create(NAMESPACES, "", {"metadata": {"name": "n"}})
            await second.client.delete(NAMESPACES, "", "n")
            # It waits 15 s after the last renewal it saw, and asks every 2 to 4.4 s.
            assert await eventually(lambda: second.has_slices("after")) < 21
            assert await second.holder() != leader

            async def emptied():
                names = (await second.client.list(NAMESPACES)).items
                return not any(b'"name":"n"' in each for each in names)

            await eventually(emptied)
            # A clean end lets it go: the next server has it at once.
            await second.end(signal.SIGTERM)
            await first.start()
            await make(first.client, "last")
            assert await eventually(lambda: first.has_slices("last")) < 5
    assert "Traceback" not in (tmp_path / "first.log").read_text() + (tmp_path / "second.log").read_text()


async def test_a_lone_servers_controllers_go_on_at_once_after_a_kill(tmp_path):
    server = Server(f"sqlite:{tmp_path / 'store.db'}", tmp_path / "log")
    async with servers(server):
        for number in range(3):
            holder = await server.holder()
            await server.end(signal.SIGKILL)
            await server.start()
            await make(server.client, f"s{number}")
            assert await eventually(lambda name=f"s{number}": server.has_slices(name)) < 3
            assert await server.holder() == holder
