"""N clients watch one collection of one API server: what each costs in memory, and when a change has reached all.

A real server process on SQLite, and the watchers as bare sockets of this process, so that the figures are as much
the server's as can be on one machine. `watchers.py [N] [CHANGES]`; 10,000 need 10,100 descriptors.
"""

import asyncio
import contextlib
import sys
import tempfile
import time

from api import answering, free_port, process
from meter import resident_mib

from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import CONFIG_MAPS

PATH = "/api/v1/namespaces/default/configmaps?watch=1&allowWatchBookmarks=true&resourceVersion="
AT_ONCE = 200


class Fleet:
    """Raw watches; each notes when the line that holds the awaited marker came."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._readers: list[asyncio.Task[None]] = []
        self._arrived: list[float] = []
        self._all = asyncio.Event()
        self._marker = b"\0"

    async def open(self, number: int, revision: str) -> None:
        request = f"GET {PATH}{revision} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()

        async def one(source: str) -> None:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=4096, local_addr=(source, 0)
            )
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head, head
            self._writers.append(writer)
            self._readers.append(asyncio.create_task(self._read(reader)))

        for start in range(0, number, AT_ONCE):
            # A client may hold a thousand connections: be several.
            source = f"127.0.1.{1 + start // 800}"
            await asyncio.gather(*(one(source) for _ in range(min(AT_ONCE, number - start))))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(4096):
            if self._marker in data:
                self._arrived.append(time.perf_counter())
                if len(self._arrived) == len(self._writers):
                    self._all.set()

    async def change(self, client: KubeClient, name: str) -> list[float]:
        """Create an object; return after how many seconds each watch had it, in order."""
        self._arrived, self._marker = [], f'"{name}"'.encode()
        self._all.clear()
        begun = time.perf_counter()
        await client.create(CONFIG_MAPS, "default", {"metadata": {"name": name}, "data": {"a": "b" * 200}})
        await asyncio.wait_for(self._all.wait(), 60)
        return [at - begun for at in self._arrived]

    async def close(self) -> None:
        for task in self._readers:
            task.cancel()
        for writer in self._writers:
            writer.close()


async def main(number: int, changes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        port = free_port()
        store = f"--store=sqlite:{folder}/api.db"
        server = stack.enter_context(
            process(sys.executable, "-m", "kubeproxy", "apiserver", store, f"--port={port}")
        )
        async with KubeClient(f"http://127.0.0.1:{port}") as client:
            await answering(lambda: client.list(CONFIG_MAPS))
            fleet = Fleet(port)
            before, begun = resident_mib(server.pid), time.perf_counter()
            await fleet.open(number, (await client.list(CONFIG_MAPS)).revision)
            opened = time.perf_counter() - begun
            each = (resident_mib(server.pid) - before) * 1024 / number
            rounds = [await fleet.change(client, f"change-{turn}") for turn in range(changes)]
            delays = sorted(delay for delays in rounds for delay in delays)
            p50, p99 = (delays[int(len(delays) * share)] * 1000 for share in (0.5, 0.99))
            last = max(delays[-1] for delays in rounds) * 1000
            print(f"{number} watches opened in {opened:.1f} s, {each:.1f} KiB each in the server")
            print(f"{changes} changes reached them in p50 {p50:.0f} ms, p99 {p99:.0f} ms, the last {last:.0f} ms")
            print(f"server: {resident_mib(server.pid):.0f} MiB")
            await fleet.close()


if __name__ == "__main__":
    asyncio.run(main(*(int(text) for text in (sys.argv[1:] + ["10000", "20"][len(sys.argv) - 1 :]))))
