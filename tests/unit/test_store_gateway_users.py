"""The gateway's users: passwords, tokens, and each below his own keys, with our client of etcd and in TLS."""

import asyncio
import contextlib
from ipaddress import ip_network

import aiohttp
import pytest

from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.protection import Protection
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from kubeproxy.store.base import (
    Delete,
    InvalidToken,
    LeaseNotFound,
    PermissionDenied,
    Put,
    Range,
    Refused,
    Unauthenticated,
    get,
    prefix_end,
    put,
)
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.etcd_access import EtcdAccess
from kubeproxy.store.gateway_door import SignIns, TooManyRequests
from kubeproxy.store.gateway_users import MAX_TOKENS, TOKEN_SECONDS, GatewayUsers, parse_users
from kubeproxy.store.scoped import ScopedStore
from kubeproxy.store.sqlite import SqliteStore
from tests.ports import free_port

pytestmark = pytest.mark.unit

USERS = "# who\nroot,r00t,\nflannel,s3cret,/coreos.com/network\n"
OWN, FOREIGN = b"/coreos.com/network/config", b"/registry/services/specs/default/kubernetes"


def settings(directory, url, users=USERS):
    (directory / "users.csv").write_text(users)
    return Settings(
        store="sqlite::memory:",
        ranges=Ranges(networks=(ip_network("10.96.0.0/12"),)),
        port=0,
        client_urls=(url,),
        client_users_file=str(directory / "users.csv") if users else "",
        protection=Protection(cert_dir=str(directory / "pki")),
    )


async def test_each_user_has_his_keys_and_no_others(tmp_path):
    url = f"https://127.0.0.1:{free_port()}"
    ca = str(tmp_path / "pki/ca.crt")
    async with running(settings(tmp_path, url), SystemClock()) as api, contextlib.AsyncExitStack() as stack:
        assert api.startswith("http://127.0.0.1:"), "the API's own port is as before"

        async def client(name, password):
            access = EtcdAccess(cafile=ca, username=name, password=password)
            return await stack.enter_async_context(EtcdStore([url], access=access))

        flannel, root = await client("flannel", "s3cret"), await client("root", "r00t")
        await put(flannel, OWN, b"{}")
        lease = await flannel.lease_grant(60)
        await flannel.txn((), (Put(key=OWN + b"/a", value=b"", lease=lease.id),))
        assert await flannel.lease_keep_alive(lease.id) == 60
        async for batch in flannel.watch(OWN, prefix_end(OWN)):
            assert batch.revision
            break
        assert await get(root, FOREIGN) is not None
        for refused in (
            get(flannel, FOREIGN),
            put(flannel, FOREIGN, b""),
            flannel.txn((), (Delete(key=OWN, range_end=b"\0"),)),
            flannel.compact(1),
        ):
            with pytest.raises(Refused, match="permission denied"):
                await refused
        for name, password in (("flannel", "wrong"), ("nobody", "s3cret")):
            with pytest.raises(Unauthenticated, match="authentication failed"):
                await get(await client(name, password), OWN)
        anonymous = await stack.enter_async_context(EtcdStore([url], access=EtcdAccess(cafile=ca)))
        with pytest.raises(Unauthenticated, match="user name is empty"):
            await get(anonymous, OWN)


@pytest.mark.parametrize(
    ("url", "users", "complaint"),
    [
        ("http://0.0.0.0:0", USERS, "must be https://"),
        ("https://0.0.0.0:0", "", "needs --client-users-file"),
        ("ftp://127.0.0.1:0", USERS, "must be http"),
        ("http://127.0.0.1:0", "a,b\n", "line 1: must be name,password,key prefix"),
        ("http://127.0.0.1:0", 'a,b,"/c\nroot,r,', "line 1: unexpected end of data"),
    ],
)
async def test_what_would_be_open_is_not_served(tmp_path, url, users, complaint):
    with pytest.raises(ValueError, match=complaint):
        async with running(settings(tmp_path, url.replace(":0", f":{free_port()}"), users), SystemClock()):
            pass


async def test_without_users_there_is_nothing_to_sign_in_to(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    async with running(settings(tmp_path, url, ""), SystemClock()), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v3/auth/authenticate", data=b'{"name":"a","password":"b"}') as answer:
            assert (answer.status, (await answer.json())["code"]) == (400, 9)


def test_a_token_lasts_while_it_is_used():
    now = 0.0
    users = GatewayUsers(parse_users(USERS), lambda: now)
    token = users.authenticate("flannel", "s3cret")
    for _ in range(3):
        now += TOKEN_SECONDS - 1
        assert users.user(token).name == "flannel"
    now += TOKEN_SECONDS + 1
    for ended in (token, "never was"):
        with pytest.raises(InvalidToken):
            users.user(ended)


@pytest.mark.parametrize(
    ("key", "end", "allowed"),
    [
        (b"/a", b"", True),
        (b"/a/b", b"/a/c", True),
        (b"/a", b"/b", True),
        (b"/a", b"/b0", False),
        (b"/a", b"\0", False),
        (b"/", b"/a", False),
        (b"/b", b"", False),
        (b"\0", b"\0", False),
    ],
)
async def test_a_scope_is_a_prefix(key, end, allowed):
    async with await SqliteStore.open(":memory:") as store:
        scoped = ScopedStore(store, b"/a")
        for operation in (Range(key=key, range_end=end), Delete(key=key, range_end=end)):
            if allowed:
                await scoped.txn((), (operation,))
            else:
                with pytest.raises(PermissionDenied):
                    await scoped.txn((), (operation,))


async def test_nobody_hangs_his_keys_on_anothers_lease():
    """Else the other could neither renew nor revoke it any more, and would lose his keys with it."""
    async with await SqliteStore.open(":memory:") as store:
        mine, other = ScopedStore(store, b"/a"), ScopedStore(store, b"/b")
        lease = (await other.lease_grant(60)).id
        await other.txn((), (Put(key=b"/b/subnet", value=b"", lease=lease),))
        for branches in (
            ((Put(key=b"/a/x", value=b"", lease=lease),), ()),
            ((), (Put(key=b"/a/x", value=b"", lease=lease),)),
        ):
            with pytest.raises(PermissionDenied):
                await mine.txn((), *branches)
        assert await other.lease_keep_alive(lease) == 60
        with pytest.raises(LeaseNotFound):
            await mine.txn((), (Put(key=b"/a/x", value=b"", lease=12345),))


def test_a_users_many_tokens_end_his_own_only():
    users = GatewayUsers(parse_users(USERS), lambda: 0.0)
    root, first = users.authenticate("root", "r00t"), users.authenticate("flannel", "s3cret")
    for _ in range(MAX_TOKENS):
        users.authenticate("flannel", "s3cret")
    assert users.user(root).name == "root"
    with pytest.raises(InvalidToken):
        users.user(first)


def test_passwords_are_not_guessed_in_haste(caplog):
    now = 100.0
    sign_ins = SignIns(lambda: now)
    waits = [sign_ins.turn("192.0.2.1") for _ in range(20)]
    assert waits[:10] == [0.0] * 10
    assert waits[-1] == pytest.approx(1.0)
    assert sign_ins.turn("192.0.2.2") == 0.0, "another address waits for nobody"
    with pytest.raises(TooManyRequests):
        for _ in range(100):
            sign_ins.turn("192.0.2.1")
    now += 60
    assert sign_ins.turn("192.0.2.1") == 0.0
    for _ in range(3):
        sign_ins.failed("192.0.2.1", "root\nforged")
    assert [record.getMessage() for record in caplog.records] == [
        "no sign-in for user 'root\\nforged' from 192.0.2.1 (1 since the start)"
    ]


async def test_who_has_not_signed_in_is_not_listened_to(tmp_path):
    """A body of 4 MiB from each of thousands of strangers would be kept until it is whole."""
    url = f"http://127.0.0.1:{free_port()}"
    async with running(settings(tmp_path, url), SystemClock()), aiohttp.ClientSession() as http:
        for path, text in (("kv/put", "user name is empty"), ("auth/authenticate", "request is too large")):
            async with http.post(f"{url}/v3/{path}", data=b"x" * 5000) as answer:
                assert answer.status == 400
                assert text in (await answer.json())["message"]

        async def endless():
            yield b"{"
            await asyncio.Event().wait()

        async with http.post(f"{url}/v3/kv/put", data=endless()) as answer:
            assert "user name is empty" in (await answer.json())["message"], "before its body has come"
