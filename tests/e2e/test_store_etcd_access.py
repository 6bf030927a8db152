"""Real etcd behind TLS, with users, and full: what the client and the API server make of it."""

import asyncio
import base64
import contextlib
import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from kubeproxy.apiserver.allocate import parse_ranges
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from kubeproxy.store.base import Delete, NoSpace, Put, Range, Refused, Unauthenticated, Unavailable, get, put
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.etcd_access import EtcdAccess
from tests.certificates import Authority
from tests.etcd_bed import Cluster, etcd_cluster, free_port
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
ROOT = EtcdAccess(username="root", password="pw")
LIMITED = EtcdAccess(username="limited", password="pw")


def ask(url: str, path: str, request: dict[str, Any], token: str = "") -> dict[str, Any]:
    headers = {"Authorization": token} if token else {}
    body = json.dumps(request).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, body, headers), timeout=5) as answer:
        return dict(json.loads(answer.read()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def tls_url(authority: Authority) -> Iterator[str]:
    """An etcd that wants a client certificate."""
    certfile, keyfile = authority.issue("server")
    flags = [f"--cert-file={certfile}", f"--key-file={keyfile}"]
    flags += ["--client-cert-auth", f"--trusted-ca-file={authority.cafile}"]
    with etcd_cluster(1, *flags, scheme="https") as cluster:
        yield cluster.urls[0]


@pytest.fixture(scope="module")
def users_url() -> Iterator[str]:
    """An etcd with two users: root, and one that may touch nothing but /registry/."""
    with etcd_cluster(1) as cluster:
        url = cluster.urls[0]
        for user in ("root", "limited"):
            ask(url, "/v3/auth/user/add", {"name": user, "password": "pw"})
            ask(url, "/v3/auth/role/add", {"name": user})
            ask(url, "/v3/auth/user/grant", {"user": user, "role": user})
        key, end = (base64.b64encode(text).decode() for text in (b"/registry/", b"/registry0"))
        permission = {"permType": "READWRITE", "key": key, "range_end": end}
        ask(url, "/v3/auth/role/grant", {"name": "limited", "perm": permission})
        ask(url, "/v3/auth/enable", {})
        yield url


class TestTls:
    async def test_a_client_certificate_opens(self, tls_url: str, authority: Authority) -> None:
        certfile, keyfile = authority.issue("client")
        access = EtcdAccess(cafile=str(authority.cafile), certfile=str(certfile), keyfile=str(keyfile))
        async with EtcdStore([tls_url], access=access) as store:
            await put(store, b"a", b"1")
            assert (await anext(store.watch(b"a", start_revision=1))).events == ()

    async def test_without_one_nothing_does(self, tls_url: str, authority: Authority) -> None:
        async with EtcdStore([tls_url], access=EtcdAccess(cafile=str(authority.cafile))) as store:
            with pytest.raises(Unavailable, match=r"(?i)certificate|closed|reset|disconnected"):
                await put(store, b"b", b"1")

    async def test_a_foreign_authority_is_named(self, tls_url: str, folder: Path, authority: Authority) -> None:
        foreign = Authority(folder, "foreign")
        certfile, keyfile = authority.issue("client")
        access = EtcdAccess(cafile=str(foreign.cafile), certfile=str(certfile), keyfile=str(keyfile))
        async with EtcdStore([tls_url], access=access) as store:
            for call in (get(store, b"a"), put(store, b"a", b""), anext(store.watch(b"a"))):
                with pytest.raises(Unavailable, match="certificate verify failed"):
                    await call


class TestUsers:
    async def test_a_token_that_ended_is_renewed_unseen(self, users_url: str) -> None:
        def end_tokens() -> None:
            request = {"name": "limited", "password": "pw"}
            ask(users_url, "/v3/auth/user/changepw", request, _root_token(users_url))

        async with EtcdStore([users_url], access=LIMITED) as store:
            await put(store, b"/registry/a", b"1")
            end_tokens()
            await asyncio.gather(*(put(store, b"/registry/a", b"2") for _ in range(5)))
            end_tokens()
            watch = store.watch(b"/registry/a")
            await anext(watch)
            await put(store, b"/registry/a", b"3")
            assert [event.kv.value for event in (await anext(watch)).events] == [b"3"]

    async def test_a_change_of_rights_is_not_seen_either(self, users_url: str) -> None:
        async with EtcdStore([users_url], access=LIMITED) as store:
            await put(store, b"/registry/a", b"1")
            ask(users_url, "/v3/auth/role/add", {"name": "another"}, _root_token(users_url))
            await put(store, b"/registry/a", b"2")

    async def test_rights_end_where_they_end(self, users_url: str) -> None:
        async with EtcdStore([users_url], access=LIMITED, idle_seconds=0.05) as store:
            watch = store.watch(b"/registry/", b"/registry0")
            await anext(watch)
            event = asyncio.create_task(anext(watch))
            for call in (get(store, b"a"), put(store, b"a", b""), anext(store.watch(b"a"))):
                with pytest.raises(Refused, match="permission denied"):
                    await call
            await asyncio.sleep(0.2)  # The watch's own probes are within its rights.
            await put(store, b"/registry/b", b"1")
            async with asyncio.timeout(5):
                assert (await event).events[0].kv.key == b"/registry/b"

    @pytest.mark.parametrize(
        ("access", "message"),
        [
            (EtcdAccess(username="root", password="wrong"), "user 'root': etcdserver: authentication failed"),
            (EtcdAccess(username="nobody", password="pw"), "user 'nobody': etcdserver: authentication failed"),
            (EtcdAccess(), "wants a user and a password"),
        ],
    )
    async def test_a_wrong_password_is_final(self, users_url: str, access: EtcdAccess, message: str) -> None:
        async with EtcdStore([users_url], access=access) as store:
            for call in (get(store, b"a"), put(store, b"a", b"")):
                with pytest.raises(Unauthenticated, match=message):
                    await call
        with pytest.raises(Unauthenticated, match=message):
            async with running(_settings(users_url, access), SystemClock()):
                pass

    async def test_a_user_at_an_etcd_without_users(self) -> None:
        with etcd_cluster(1) as cluster:
            async with EtcdStore(cluster.urls, access=ROOT) as store:
                await put(store, b"a", b"1")
                assert (await anext(store.watch(b"a"))).events == ()


def test_a_start_that_waits_for_its_store_can_be_ended() -> None:
    arguments = ["apiserver", "--port=0", f"--etcd-servers=http://127.0.0.1:{free_port()}"]
    process = subprocess.Popen([sys.executable, "-m", "kubeproxy", *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("waiting for the store: etcd http" in line for line in process.stderr)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


async def test_a_start_that_waits_for_its_store_says_so_and_goes_on() -> None:
    with etcd_cluster(1) as cluster:
        url, port = cluster.urls[0], free_port()
        cluster.members[0].kill()
        settings = msgspec.structs.replace(_settings(url, EtcdAccess()), port=port)
        async with contextlib.AsyncExitStack() as stack, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            starting = asyncio.create_task(stack.enter_async_context(running(settings, SystemClock())))
            await _says(http, "/readyz", 503, f"the store does not answer: etcd {url}: Connection refused")
            await _says(http, "/api/v1/services", 503, '"ServiceUnavailable"')
            await _says(http, "/livez", 200, "ok")
            cluster.start(cluster.members[0])
            async with asyncio.timeout(20):
                await starting
            await _says(http, "/api/v1/namespaces/default", 200, "Active")


async def _says(http: aiohttp.ClientSession, path: str, code: int, text: str) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with http.get(path) as answer:
                    said = await answer.text()
                    assert (answer.status, text in said) == (code, True), said
                    return
            await asyncio.sleep(0.05)


def _root_token(url: str) -> str:
    return str(ask(url, "/v3/auth/authenticate", {"name": "root", "password": "pw"})["token"])


def _settings(url: str, access: EtcdAccess) -> Settings:
    return Settings(store=url, ranges=parse_ranges("10.96.0.0/16", "30000-32767"), port=0, etcd=access)


class TestFullDisk:
    """The alarm NOSPACE, with a quota of 2 MB, until an operator has made room."""

    async def test_reads_go_on_and_writes_come_back(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        with etcd_cluster(1, "--quota-backend-bytes=2000000") as cluster:
            url = cluster.urls[0]
            async with EtcdStore([url]) as store, running(_settings(url, EtcdAccess()), SystemClock()) as api:
                async with aiohttp.ClientSession(api) as http:
                    before = await put(store, b"kept", b"x")
                    made = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "made-before"}}
                    async with http.post(CONFIG_MAPS, json=made) as answer:
                        assert answer.status == 201
                    with pytest.raises(NoSpace):
                        await self._fill(store, url)
                    assert await store.alarms() == ("NOSPACE",)
                    assert (await get(store, b"kept")) is not None
                    await self._is_told(http)
                    told = [r for r in caplog.records if "store is full" in r.getMessage()]
                    assert [record.levelname for record in told] == ["ERROR"]
                    assert "alarm disarm" in told[0].getMessage()
                    await self._make_room(cluster, store)
                    await put(store, b"big", b"small")
                    async with http.get("/readyz") as answer:
                        assert (answer.status, await answer.text()) == (200, "ok")
                    assert (await store.range(Range(key=b"kept"))).kvs[0].mod_revision == before

    @staticmethod
    async def _fill(store: EtcdStore, url: str) -> None:
        """Write until etcd refuses, each time after it has counted what was written before.

        It counts when it commits, every 100 ms; what comes faster may leave no room for deletions either.
        """

        def size() -> int:
            return int(ask(url, "/v3/maintenance/status", {})["dbSize"])

        for _ in range(10):
            counted = size()
            await put(store, b"big", b"v" * 1_200_000)

            async def has_grown(since: int = counted) -> bool:
                return size() > since + 1_000_000

            await eventually(has_grown)

    @staticmethod
    async def _is_told(http: aiohttp.ClientSession) -> None:
        service = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}}
        for deleted in ("", "/made-before"):
            if deleted:  # etcd is as full after it
                async with http.delete(f"{CONFIG_MAPS}{deleted}") as answer:
                    assert answer.status == 200, await answer.text()
            async with http.post(CONFIG_MAPS, json=service) as answer:
                told = await answer.json()
                message = "etcdserver: mvcc: database space exceeded"
                assert (answer.status, told["message"], "reason" in told) == (500, message, False)
        async with http.get(CONFIG_MAPS) as answer:
            assert answer.status == 200
        async with http.get("/readyz") as answer:
            assert (answer.status, "NOSPACE" in await answer.text()) == (200, True)

    @staticmethod
    async def _make_room(cluster: Cluster, store: EtcdStore) -> None:
        """What etcd's manual says: compact, defragment, disarm."""
        url = cluster.urls[0]
        with contextlib.suppress(NoSpace):
            await store.txn((), (Delete(key=b"big"), Put(key=b"no", value=b"")))
        await store.compact((await store.range(Range(key=b"kept"))).revision)
        ask(url, "/v3/maintenance/defragment", {})
        for alarm in ask(url, "/v3/maintenance/alarm", {"action": "GET"})["alarms"]:
            ask(url, "/v3/maintenance/alarm", {"action": "DEACTIVATE"} | alarm)
