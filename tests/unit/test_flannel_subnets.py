"""The subnet manager over the embedded store in memory, with time stepped by hand."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from flannel.allocation import OutOfSubnets
from flannel.lease import Lease, LeaseAttrs, encode_attrs, encode_vtep
from flannel.manager import LeaseLost
from flannel.netconf import NetConf, parse_netconf
from flannel.subnets import LEASE_SECONDS, StoreSubnetManager
from kubeproxy.clock import ManualClock
from kubeproxy.store.base import Delete, Put, Range, Store, Unavailable, get, prefix_end, put
from kubeproxy.store.sqlite import SqliteStore
from tests.waiting import until_stepped

pytestmark = pytest.mark.unit

PREFIX = "/coreos.com/network"
SUBNETS = f"{PREFIX}/subnets/"
NETCONF = parse_netconf(b'{"Network":"10.1.0.0/16"}')


def attrs(number: int, mac: str = "") -> LeaseAttrs:
    data = encode_vtep(1, mac) if mac else b""
    return LeaseAttrs(public_ip=IPv4Address(f"1.2.3.{number}"), backend_type="vxlan", backend_data=data)


class Flaky:
    """A store that can be switched off, and that can lose the answer to a write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False
        self.lose_answers = 0
        self.before_txn: list[Callable[[], Any]] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        async def guarded(*arguments: Any, **keywords: Any) -> Any:
            if self.away:
                raise Unavailable("switched off")
            if name == "txn" and self.before_txn:
                await self.before_txn.pop()()
            answer = await call(*arguments, **keywords)
            if name == "txn" and self.lose_answers:
                self.lose_answers -= 1
                raise Unavailable("answer lost")
            return answer

        return guarded

    async def watch(self, key: bytes, range_end: bytes = b"", start_revision: int = 0) -> AsyncIterator[Any]:
        if self.away:
            raise Unavailable("switched off")
        async for batch in self._store.watch(key, range_end, start_revision):
            if self.away:
                raise Unavailable("cut")
            yield batch


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[Any]:
    engine = await SqliteStore.open(":memory:", clock=clock)
    yield Flaky(engine)
    await engine.close()


def manager(store: Any, clock: ManualClock, number: int = 1) -> StoreSubnetManager:
    return StoreSubnetManager(store, prefix=PREFIX, clock=clock, chooser=random.Random(number))


@asynccontextmanager
async def following(node: StoreSubnetManager) -> AsyncIterator[list[dict[str, str]]]:
    """Run `follow`; the list gets {subnet: public address} at each call."""
    seen: list[dict[str, str]] = []

    def note(leases: tuple[Lease, ...]) -> None:
        seen.append({str(lease.subnet): str(lease.attrs.public_ip) for lease in leases})

    task = asyncio.create_task(node.follow(note))
    try:
        await until_stepped(lambda: node.synced or task.done())
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def keys(store: Any) -> dict[str, tuple[bytes, int]]:
    found = await store.range(Range(key=SUBNETS.encode(), range_end=prefix_end(SUBNETS.encode())))
    return {kv.key.decode().removeprefix(SUBNETS): (kv.value, kv.lease) for kv in found.kvs}


async def reserve(store: Any, subnet: str, number: int, lease: int = 0) -> None:
    await put(store, f"{SUBNETS}{subnet}".encode(), encode_attrs(attrs(number)), lease)


async def remaining(store: Any, lease: Lease | None) -> int:
    assert lease is not None
    return (await store.lease_time_to_live(lease.id)).remaining


# --- configuration ---------------------------------------------------------------------------------------


async def test_the_configuration_is_waited_for(store, clock):
    task = asyncio.create_task(manager(store, clock).netconf())
    await until_stepped(lambda: clock.sleeping)
    await put(store, f"{PREFIX}/config".encode(), b'{"Network": "10.1.0.0/29"}')
    await clock.step(1)
    await until_stepped(lambda: clock.sleeping)
    assert not task.done()
    store.away = True
    await clock.step(1)
    store.away = False
    await put(store, f"{PREFIX}/config".encode(), b'{"Network": "10.1.0.0/16"}')
    await until_stepped(task.done, clock)
    assert isinstance(task.result(), NetConf)


# --- acquiring -------------------------------------------------------------------------------------------


async def test_a_lease_is_created_in_flannels_schema(store, clock):
    lease = await manager(store, clock).acquire(NETCONF, attrs(1))
    assert NETCONF.fits(lease.subnet)
    value, lease_id = (await keys(store))[f"{lease.subnet.network_address}-24"]
    assert value == b'{"PublicIP":"1.2.3.1","PublicIPv6":null,"BackendType":"vxlan"}'
    assert lease_id == lease.id
    assert await remaining(store, lease) == LEASE_SECONDS


async def test_a_second_start_takes_the_lease_over_without_writing(store, clock):
    first = await manager(store, clock).acquire(NETCONF, attrs(1))
    await clock.step(3600)
    again = await manager(store, clock).acquire(NETCONF, attrs(1))
    assert again == first
    assert await remaining(store, again) == LEASE_SECONDS
    assert await manager(store, clock).standing_lease(attrs(1).public_ip) == first


async def test_new_attributes_are_written_into_the_standing_lease(store, clock):
    first = await manager(store, clock).acquire(NETCONF, attrs(1))
    again = await manager(store, clock).acquire(NETCONF, attrs(1, "0e:00:00:00:00:01"))
    assert again.subnet == first.subnet
    assert len(await keys(store)) == 1
    assert b"0e:00:00:00:00:01" in (await keys(store))[f"{first.subnet.network_address}-24"][0]


async def test_the_previous_subnet_is_taken_if_free_and_fitting(store, clock):
    wanted = IPv4Network("10.1.77.0/24")
    assert (await manager(store, clock, 1).acquire(NETCONF, attrs(1), wanted)).subnet == wanted
    assert (await manager(store, clock, 2).acquire(NETCONF, attrs(2), wanted)).subnet != wanted
    outside = IPv4Network("10.9.77.0/24")
    assert NETCONF.fits((await manager(store, clock, 3).acquire(NETCONF, attrs(3), outside)).subnet)


async def test_a_lease_of_a_former_network_is_given_up(store, clock):
    old = await manager(store, clock).acquire(parse_netconf(b'{"Network":"10.9.0.0/16"}'), attrs(1))
    new = await manager(store, clock).acquire(NETCONF, attrs(1), old.subnet)
    assert NETCONF.fits(new.subnet)
    assert list(await keys(store)) == [f"{new.subnet.network_address}-24"]


async def test_a_subnet_that_overlaps_any_lease_is_not_free(store, clock):
    small = parse_netconf(b'{"Network":"10.1.0.0/22"}')
    await reserve(store, "10.1.0.0-23", 9)
    await reserve(store, "10.1.2.0-25", 8)
    assert str((await manager(store, clock).acquire(small, attrs(1))).subnet) == "10.1.3.0/24"
    with pytest.raises(OutOfSubnets, match=r"all from 10\.1\.1\.0 to 10\.1\.3\.0 are leased"):
        await manager(store, clock, 2).acquire(small, attrs(2))


async def test_racing_nodes_get_different_subnets(store, clock):
    same_choice = [
        StoreSubnetManager(store, prefix=PREFIX, clock=clock, chooser=random.Random(1)) for n in range(1, 9)
    ]
    leases = await asyncio.gather(*(node.acquire(NETCONF, attrs(n + 1)) for n, node in enumerate(same_choice)))
    assert len({lease.subnet for lease in leases}) == 8
    assert len(await keys(store)) == 8
    assert len(await store.lease_list()) == 8  # the losers' grants are gone


async def test_an_answer_that_got_lost_does_not_leak_a_subnet(store, clock):
    store.lose_answers = 1
    node = manager(store, clock)
    task = asyncio.create_task(node.acquire(NETCONF, attrs(1)))
    await until_stepped(task.done, clock)
    assert len(await keys(store)) == 1


async def test_acquiring_waits_for_an_absent_store(store, clock):
    store.away = True
    task = asyncio.create_task(manager(store, clock).acquire(NETCONF, attrs(1)))
    await clock.step(60)
    assert not task.done()
    store.away = False
    await until_stepped(task.done, clock)
    assert NETCONF.fits(task.result().subnet)


async def test_a_reservation_stays_one(store, clock):
    await reserve(store, "10.1.44.0-24", 1)
    lease = await manager(store, clock).acquire(NETCONF, attrs(1, "0e:00:00:00:00:01"))
    assert (str(lease.subnet), lease.id) == ("10.1.44.0/24", 0)
    assert (await keys(store))["10.1.44.0-24"][1] == 0


# --- renewing --------------------------------------------------------------------------------------------


async def test_renewal_re_arms_the_lease_and_wakes_nobody(store, clock):
    node, other = manager(store, clock), manager(store, clock, 2)
    lease = await node.acquire(NETCONF, attrs(1))
    async with following(other) as seen:
        task = asyncio.create_task(node.renew())
        await clock.step(LEASE_SECONDS - 3600 - 1)
        assert await remaining(store, lease) == 3601
        await clock.step(1)
        await until_stepped(lambda: clock.sleeping)
        for _ in range(100):
            if await remaining(store, lease) > 3601:
                break
            await asyncio.sleep(0.01)
        assert await remaining(store, lease) == LEASE_SECONDS
        assert seen == [{str(lease.subnet): "1.2.3.1"}]
        task.cancel()


async def test_a_lease_that_died_is_renewed_by_writing_it_anew(store, clock):
    node = manager(store, clock)
    lease = await node.acquire(NETCONF, attrs(1))
    task = asyncio.create_task(node.renew())
    await reserve(store, f"{lease.subnet.network_address}-24", 1)  # takes the key off its lease
    await store.lease_revoke(lease.id)
    node.own = Lease(
        subnet=lease.subnet, attrs=lease.attrs, key=lease.key, id=lease.id, revision=lease.revision + 1
    )
    await clock.step(LEASE_SECONDS - 3600)
    await until_stepped(lambda: node.own and node.own.id != lease.id)
    assert await remaining(store, node.own) == LEASE_SECONDS
    task.cancel()


# --- following -------------------------------------------------------------------------------------------


async def test_others_are_announced_and_oneself_never(store, clock):
    node = manager(store, clock)
    own = await node.acquire(NETCONF, attrs(1))
    async with following(node) as seen:
        assert seen == [{}]
        await manager(store, clock, 2).acquire(NETCONF, attrs(2), IPv4Network("10.1.22.0/24"))
        await until_stepped(lambda: seen[-1] == {"10.1.22.0/24": "1.2.3.2"})
        await store.txn((), (Delete(key=f"{SUBNETS}10.1.22.0-24".encode()),))
        await until_stepped(lambda: seen[-1] == {})
        assert all(str(own.subnet) not in call for call in seen)


async def test_a_lease_that_expires_is_removed(store, clock):
    granted = await store.lease_grant(3)
    await reserve(store, "10.1.22.0-24", 2, granted.id)
    node = manager(store, clock)
    async with following(node) as seen:
        assert seen == [{"10.1.22.0/24": "1.2.3.2"}]
        await until_stepped(lambda: seen[-1] == {}, clock)


async def test_what_is_no_lease_is_passed_over_and_reported(store, clock):
    await put(store, f"{SUBNETS}rubbish".encode(), b"x")
    await put(store, f"{SUBNETS}10.1.23.0-24".encode(), b"{}")
    await reserve(store, "10.1.22.0-24", 2)
    node = manager(store, clock)
    async with following(node) as seen:
        assert seen == [{"10.1.22.0/24": "1.2.3.2"}]
        assert set(node.book.rejected) == {f"{SUBNETS}rubbish", f"{SUBNETS}10.1.23.0-24"}


async def test_after_an_outage_the_watch_goes_on(store, clock):
    node = manager(store, clock)
    async with following(node) as seen:
        store.away = True
        # The engine itself goes on, as an etcd does behind a cut cable.
        await put(store._store, f"{SUBNETS}10.1.22.0-24".encode(), encode_attrs(attrs(2)))
        await until_stepped(lambda: not node.synced)
        await clock.step(30)
        assert seen[-1] == {}
        store.away = False
        await until_stepped(lambda: seen[-1] == {"10.1.22.0/24": "1.2.3.2"}, clock)
        assert node.synced


async def test_after_a_compaction_everything_that_changed_is_announced(store, clock):
    await reserve(store, "10.1.21.0-24", 5)
    await reserve(store, "10.1.22.0-24", 2)
    node = manager(store, clock)
    own = await node.acquire(NETCONF, attrs(1))
    async with following(node) as seen:
        store.away = True
        engine = store._store
        await put(engine, f"{SUBNETS}10.1.22.0-24".encode(), encode_attrs(attrs(3)))  # changed
        await engine.txn((), (Delete(key=f"{SUBNETS}10.1.21.0-24".encode()),))  # vanished
        await put(engine, f"{SUBNETS}10.1.23.0-24".encode(), encode_attrs(attrs(4)))  # new
        await until_stepped(lambda: not node.synced)
        result = await engine.txn((), (Put(key=b"other", value=b""),))
        await engine.compact(result.revision)
        store.away = False
        await until_stepped(lambda: node.synced, clock)
        assert seen[-1] == {"10.1.22.0/24": "1.2.3.3", "10.1.23.0/24": "1.2.3.4"}
        assert node.own == own


async def test_a_revoked_lease_is_taken_again(store, clock):
    node = manager(store, clock)
    own = await node.acquire(NETCONF, attrs(1))
    async with following(node):
        await store.lease_revoke(own.id)
        await until_stepped(lambda: node.own and node.own.id != own.id)
        assert node.own
        assert node.own.subnet == own.subnet
        assert await get(store, own.key.encode())


async def test_a_lease_revoked_while_the_store_was_away_is_taken_again(store, clock):
    node = manager(store, clock)
    own = await node.acquire(NETCONF, attrs(1))
    async with following(node):
        store.away = True
        await store._store.lease_revoke(own.id)
        await until_stepped(lambda: not node.synced)
        store.away = False
        await until_stepped(lambda: node.own and node.own.id != own.id, clock)


async def test_a_subnet_that_another_node_took_ends_the_daemon(store, clock):
    node = manager(store, clock)
    own = await node.acquire(NETCONF, attrs(1))
    async with asyncio.timeout(5):
        task = asyncio.create_task(node.follow(lambda leases: None))
        await until_stepped(lambda: node.synced)
        await reserve(store, f"{own.subnet.network_address}-24", 9)
        with pytest.raises(LeaseLost, match=r"leased by 1\.2\.3\.9"):
            await task
