"""Causes of failed requests, in words, from real sockets: the libraries' texts must not come through."""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kubeproxy.apiserver.pki import Pki
from kubeproxy.store.base import Unavailable
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.etcd_access import EtcdAccess
from kubeproxy.store.trouble import in_words
from tests.ports import free_port

NOBODY = EtcdAccess()
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def _half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    writer.close()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def _trouble(url: str, access: EtcdAccess = NOBODY) -> str:
    async with EtcdStore([url], access=access) as store:
        with pytest.raises(Unavailable) as raised:
            await anext(store.watch(b"a"))
    return str(raised.value)


async def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert await _trouble(url) == f"etcd {url}: Connection refused"


@pytest.mark.parametrize(
    ("serve", "scheme", "said"),
    [
        (_hang_up, "http", "Server disconnected"),
        (_half, "http", "the answer was cut off"),
        (_greet, "https", "the server does not speak TLS"),
    ],
)
async def test_a_peer_that_is_no_etcd(serve: Serve, scheme: str, said: str) -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert said in await _trouble(url)


async def test_a_certificate_of_somebody_else(tmp_path: Path) -> None:
    ours, theirs = Pki(tmp_path / "ours"), Pki(tmp_path / "theirs")
    ours.ca(time.time())
    theirs.ensure_serving(["127.0.0.1"], time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*theirs.serving_files)
    async with await asyncio.start_server(_hang_up, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        said = await _trouble(url, EtcdAccess(cafile=str(ours.ca_file)))
    assert said.startswith(f"etcd {url}: certificate verify failed: ")
    assert "object at" not in said


async def test_an_address_that_is_taken() -> None:
    async with await asyncio.start_server(_hang_up, "127.0.0.1", 0) as server:
        with pytest.raises(OSError) as raised:  # its text is what is asked about
            await asyncio.start_server(_hang_up, *server.sockets[0].getsockname())
    assert in_words(raised.value) == "Address already in use"
