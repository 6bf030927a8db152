"""A bed for real flanneld processes: nodes on a veth, each with a pod attached point to point, and a store.

    pod0 --- node0 ===(192.168.77.0/24)=== node1 --- pod1         the store runs in node0

Everything is inside namespaces with unique names, which `close` removes together with every process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.waiting import until

ROOT = Path(__file__).parents[2]
UNDERLAY = "192.168.77"
STORE_PORT = 2379
PREFIX = "/coreos.com/network"

STORE_PROGRAM = """
import asyncio, sys
from aiohttp import web
from kubeproxy.clock import SystemClock
from kubeproxy.store.gateway import gateway_app
from kubeproxy.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1], clock=SystemClock())
    runner = web.AppRunner(gateway_app(store))
    await runner.setup()
    await web.TCPSite(runner, sys.argv[2], int(sys.argv[3]), reuse_address=True).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""

PUT_PROGRAM = """
import asyncio, sys
from kubeproxy.store.base import Delete, put
from kubeproxy.store.etcd import EtcdStore

async def main():
    async with EtcdStore([sys.argv[1]]) as store:
        if len(sys.argv) == 4:
            await put(store, sys.argv[2].encode(), sys.argv[3].encode())
        else:
            await store.txn((), (Delete(key=sys.argv[2].encode()),))

asyncio.run(main())
"""


def run(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}{done.stdout[-500:]}"
        )
    return done.stdout


class Bed:
    def __init__(self, directory: Path, nodes: int = 2) -> None:
        self.directory = directory
        self.tag = f"fl{os.getpid()}"
        self.nodes = [f"{self.tag}-n{number}" for number in range(nodes)]
        self.pods = [f"{self.tag}-p{number}" for number in range(nodes)]
        self.daemons: dict[int, subprocess.Popen[bytes]] = {}
        self.store: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://{UNDERLAY}.1:{STORE_PORT}"

    # --- namespaces --------------------------------------------------------------------------------------

    def open(self) -> None:
        for name in (*self.nodes, *self.pods, self.switch):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "br0", "up")
        for number, node in enumerate(self.nodes):
            run(
                "ip",
                "link",
                "add",
                "eth0",
                "netns",
                node,
                "type",
                "veth",
                "peer",
                f"p{number}",
                "netns",
                self.switch,
            )
            run("ip", "-n", self.switch, "link", "set", f"p{number}", "master", "br0", "up")
            run("ip", "-n", node, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            run("ip", "-n", node, "link", "set", "eth0", "up")
            self.on_node(number, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    @property
    def switch(self) -> str:
        return f"{self.tag}-sw"

    def address(self, number: int) -> str:
        return f"{UNDERLAY}.{number + 1}"

    def on_node(self, number: int, *argv: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.nodes[number], *argv, check=check)

    def on_pod(self, number: int, *argv: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.pods[number], *argv, check=check)

    def attach_pod(self, number: int) -> str:
        """Give the node's pod the second address of the node's subnet, as the lab does, and return it."""
        env = self.subnet_env(number)
        base, _, _ = env["FLANNEL_SUBNET"].partition("/")
        address = base[: base.rindex(".")] + ".2"
        node, pod = self.nodes[number], self.pods[number]
        run("ip", "link", "add", "pod", "netns", node, "type", "veth", "peer", "eth0", "netns", pod)
        run("ip", "-n", node, "link", "set", "pod", "up")
        run("ip", "-n", node, "addr", "add", f"{base}/32", "dev", "pod")
        run("ip", "-n", node, "route", "add", f"{address}/32", "dev", "pod")
        run("ip", "-n", pod, "link", "set", "eth0", "up", "mtu", env["FLANNEL_MTU"])
        run("ip", "-n", pod, "addr", "add", f"{address}/32", "dev", "eth0")
        run("ip", "-n", pod, "route", "add", f"{base}/32", "dev", "eth0")
        run("ip", "-n", pod, "route", "add", "default", "via", base, "dev", "eth0")
        return address

    # --- store -------------------------------------------------------------------------------------------

    def start_store(self) -> None:
        argv = [
            sys.executable,
            "-c",
            STORE_PROGRAM,
            str(self.directory / "store.db"),
            f"{UNDERLAY}.1",
            str(STORE_PORT),
        ]
        self.store = self._start(0, argv, "store.log")

    def start_etcd(self) -> None:
        """Run the real etcd in the store's place."""
        argv = [
            *("etcd", "--data-dir", str(self.directory / "etcd"), "--listen-client-urls", self.endpoint),
            *("--advertise-client-urls", self.endpoint, "--listen-peer-urls", "http://127.0.0.1:2380"),
        ]
        self.store = self._start(0, argv, "store.log")

    def stop_store(self) -> None:
        assert self.store is not None
        self.store.kill()
        self.store.wait()

    def put(self, key: str, value: str) -> None:
        self._write(key, value)

    def delete(self, key: str) -> None:
        self._write(key)

    def _write(self, *arguments: str) -> None:
        until(lambda: self._store_answers(), "the store answers")
        self.on_node(0, sys.executable, "-c", PUT_PROGRAM, self.endpoint, *arguments)

    def _store_answers(self) -> bool:
        return "true" in self.on_node(0, "curl", "-sm", "2", f"{self.endpoint}/health", check=False)

    def configure(self, **backend: object) -> None:
        self.put(f"{PREFIX}/config", json.dumps({"Network": "10.77.0.0/16", "Backend": backend}))

    # --- daemons -----------------------------------------------------------------------------------------

    def command(self, number: int) -> tuple[str, ...]:
        """Return how a node's daemon is started, up to where it finds its lease."""
        return sys.executable, "-m", "flannel", "-etcd-endpoints", self.endpoint

    def start(self, number: int, *flags: str) -> None:
        argv = [
            *(*self.command(number), "--iface=eth0"),
            *(
                "-subnet-file",
                str(self.env_file(number)),
                "-healthz-ip",
                "127.0.0.1",
                "-healthz-port=10256",
                *flags,
            ),
        ]
        self.daemons[number] = self._start(number, argv, f"flanneld{number}.log")

    def kill(self, number: int) -> None:
        self.daemons[number].kill()
        self.daemons[number].wait()

    def stop(self, number: int) -> int:
        self.daemons[number].terminate()
        return self.daemons[number].wait(timeout=10)

    def ready(self, number: int) -> bool:
        return "is ready" in self.on_node(number, "curl", "-sm", "2", "http://127.0.0.1:10256/readyz", check=False)

    def wait_ready(self, *numbers: int) -> None:
        for number in numbers or range(len(self.nodes)):
            until(lambda number=number: self.ready(number), f"node {number} is ready; {self.log(number)}")

    def env_file(self, number: int) -> Path:
        return self.directory / f"subnet{number}.env"

    def subnet_env(self, number: int) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.env_file(number).read_text().splitlines())

    def log(self, number: int) -> str:
        return (self.directory / f"flanneld{number}.log").read_text()[-4000:]

    def pings(self, number: int, address: str, *, size: int = 56, count: int = 1) -> bool:
        """Whether the node's pod gets every answer, with fragmentation forbidden up to its MTU."""
        argv = ("ping", "-c", str(count), "-i", "0.05", "-W", "1", "-s", str(size), address)
        return " 0% packet loss" in self.on_pod(number, *argv, check=False)

    def _start(self, number: int, argv: Sequence[str], log: str) -> "subprocess.Popen[bytes]":
        with (self.directory / log).open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.nodes[number], *argv], stdout=file, stderr=file, cwd=ROOT
            )

    def close(self) -> None:
        for process in (*self.daemons.values(), *([self.store] if self.store else [])):
            if process.poll() is None:
                process.kill()
                process.wait()
        for name in (*self.nodes, *self.pods, self.switch):
            run("ip", "netns", "delete", name, check=False)
