"""A node's subnet lease over the store: read the configuration, acquire, renew, follow everyone's.

Flannel's etcd schema and its choices (own lease by public address, then the previous subnet, then a random
free one; 24 hours; kept on a clean shutdown), with what its issues taught:

* a lost race for a subnet is tried again with a fresh listing, as often as it takes;
* renewal is the lease's keep-alive, which writes no key and wakes no other node;
* a reservation (a key without a lease) stays one;
* a lease whose attributes changed while we were disconnected is announced (`LeaseBook`).

A revoked lease: flannel ends, so that its supervisor starts it anew and it takes the same subnet again. Here
the same subnet is taken again in place, and only if another node was faster does the daemon end (`LeaseLost`):
then the pods on this node have addresses that belong elsewhere, and somebody must replace them.

Listing is one range; `lease_time_to_live` is never asked for (flannel asks it once a key).
"""

import logging
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import msgspec

from flannel.allocation import Chooser, LeaseBook, LeaseChange, choose_subnet, lease_of
from flannel.backoff import Backoff
from flannel.lease import Lease, LeaseAttrs, encode_attrs, subnet_key
from flannel.manager import LeaseLost
from flannel.netconf import NetConf, NetConfError, parse_netconf
from kubeproxy.clock import Clock
from kubeproxy.store.base import (
    Compacted,
    Compare,
    Delete,
    FutureRevision,
    LeaseNotFound,
    Put,
    Range,
    Store,
    StoreError,
    Target,
    Unauthenticated,
    WatchBatch,
    get,
    prefix_end,
)

log = logging.getLogger(__name__)

LEASE_SECONDS = 24 * 3600
CONFIG_RETRY_SECONDS = 1.0


class StoreSubnetManager:
    """One node's view of the leases in the store; see `flannel.manager.SubnetManager`."""

    def __init__(
        self,
        store: Store,
        *,
        prefix: str,
        clock: Clock,
        chooser: Chooser,
        renew_margin_seconds: float = 3600.0,
    ) -> None:
        self.own: Lease | None = None
        self.synced = False
        self.waiting_for = ""
        self.book = LeaseBook()
        self._store = store
        self._config_key = f"{prefix.rstrip('/')}/config".encode()
        self._subnets = f"{prefix.rstrip('/')}/subnets/"
        self._clock = clock
        self._chooser = chooser
        self._renew_after = LEASE_SECONDS - renew_margin_seconds
        self._revision = 0
        self._reported: set[tuple[str, str]] = set()

    # --- before the overlay runs -------------------------------------------------------------------------

    async def public_ip(self) -> IPv4Address | None:
        """A node's address is its own to say here."""
        return None

    async def netconf(self) -> NetConf:
        """Return the network configuration, waiting until the store has a valid one. Raises Unauthenticated."""
        while True:
            try:
                kv = await get(self._store, self._config_key)
                if kv is not None:
                    netconf = parse_netconf(kv.value)
                    self.waiting_for = ""
                    return netconf
                problem = f"there is no key {self._config_key.decode()} in the store yet"
            except Unauthenticated:
                raise
            except (StoreError, NetConfError) as error:
                problem = str(error)
            complaint = f"no network configuration: {problem}"
            if complaint != self.waiting_for:
                log.warning("%s; trying every second", complaint)
                self.waiting_for = complaint
            await self._clock.sleep(CONFIG_RETRY_SECONDS)

    async def standing_lease(self, public_ip: IPv4Address) -> Lease | None:
        """Return the lease that this node holds from before, if there is one."""
        backoff = Backoff("reading the leases", self._clock, log)
        while True:
            try:
                return lease_of(public_ip, await self._list())
            except StoreError as error:
                await backoff.wait(error)

    async def acquire(self, netconf: NetConf, attrs: LeaseAttrs, previous: IPv4Network | None = None) -> Lease:
        """Take over the lease that this node holds, or create one. Raises `OutOfSubnets`."""
        backoff = Backoff("acquiring a subnet lease", self._clock, log)
        while True:
            try:
                lease = await self._try_acquire(netconf, attrs, previous)
            except StoreError as error:
                # The write may have happened: the next listing then finds it by our public address.
                await backoff.wait(error)
                continue
            if lease is not None:
                kind = "a reservation" if lease.id == 0 else "for 24 h"
                log.info("subnet %s is leased to this node, %s", lease.subnet, kind)
                self.own = lease
                return lease

    async def _try_acquire(
        self, netconf: NetConf, attrs: LeaseAttrs, previous: IPv4Network | None
    ) -> Lease | None:
        leases = await self._list()
        own = lease_of(attrs.public_ip, leases)
        if own is not None and netconf.fits(own.subnet):
            log.info("found the lease of this node, %s; reusing it", own.subnet)
            return await self._take_over(own, attrs)
        if own is not None:
            log.info("the lease of this node, %s, does not fit the configuration; giving it up", own.subnet)
            if not await self._delete(own):
                return None
            leases.remove(own)
        subnet = choose_subnet(netconf, (lease.subnet for lease in leases), previous, self._chooser)
        created = await self._create(subnet, attrs)
        if created is None:
            log.info("another node was faster to lease %s; choosing again", subnet)
        return created

    async def _list(self) -> list[Lease]:
        # A book of its own: what `follow` knows must only change together with what it has announced.
        listing = LeaseBook()
        listing.reset((await self._store.range(self._all())).kvs)
        return list(listing.leases.values())

    def _all(self) -> Range:
        prefix = self._subnets.encode()
        return Range(key=prefix, range_end=prefix_end(prefix))

    async def _create(self, subnet: IPv4Network, attrs: LeaseAttrs) -> Lease | None:
        return await self._write(Lease(subnet=subnet, attrs=attrs, key=self._subnets + subnet_key(subnet)))

    async def _take_over(self, own: Lease, attrs: LeaseAttrs) -> Lease | None:
        if own.attrs == attrs and (own.id == 0 or await self._keep_alive(own.id)):
            return own
        reservation = own.id == 0
        return await self._write(msgspec.structs.replace(own, attrs=attrs), reservation=reservation)

    async def _write(self, lease: Lease, *, reservation: bool = False) -> Lease | None:
        """Put a lease if its key is as we saw it (revision 0: absent); None when it is not."""
        key = lease.key.encode()
        granted = 0 if reservation else (await self._store.lease_grant(LEASE_SECONDS)).id
        target = Target.MOD if lease.revision else Target.VERSION
        unchanged = Compare(key=key, target=target, value=lease.revision)
        put = Put(key=key, value=encode_attrs(lease.attrs), lease=granted)
        result = await self._store.txn((unchanged,), (put,))
        if result.succeeded:
            return msgspec.structs.replace(lease, id=granted, revision=result.revision)
        if granted:
            await self._store.lease_revoke(granted)
        return None

    async def _delete(self, lease: Lease) -> bool:
        key = lease.key.encode()
        unchanged = Compare(key=key, target=Target.MOD, value=lease.revision)
        return (await self._store.txn((unchanged,), (Delete(key=key),))).succeeded

    async def _keep_alive(self, lease_id: int) -> bool:
        """Re-arm a lease; False when it is gone or was granted for less than a day."""
        try:
            return await self._store.lease_keep_alive(lease_id) >= LEASE_SECONDS
        except LeaseNotFound:
            return False

    async def mark_up(self) -> None:
        """Nobody asks the store whether a node's network is up."""

    # --- while it runs -----------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Keep the own lease alive until cancelled: re-arm it when only the margin is left of its day."""
        backoff = Backoff("renewing the subnet lease", self._clock, log)
        while True:
            await self._clock.sleep(self._renew_after)
            while not await self._try_renew(backoff):
                pass
            backoff.reset()

    async def _try_renew(self, backoff: Backoff) -> bool:
        own = self.own
        try:
            if own is None or own.id == 0 or await self._keep_alive(own.id):
                return True
            written = await self._write(own)
        except StoreError as error:
            await backoff.wait(error)
            return False
        # Somebody else wrote the key meanwhile: `follow` sees what and deals with it.
        self.own = written or self.own
        return True

    async def follow(self, on_change: Callable[[tuple[Lease, ...]], None]) -> None:
        """Call back with the leases of all other nodes, at first and after every change, until cancelled.

        Raises `LeaseLost`.
        """
        backoff = Backoff("watching the leases", self._clock, log)
        self._revision = 0
        while True:
            try:
                if not self._revision:
                    await self._relist(on_change)
                await self._watch(on_change, backoff)
                await self._clock.sleep(0.1)  # the server ended the stream: not in a tight loop
            except (Compacted, FutureRevision) as error:
                log.info("the watch cannot go on (%s); listing anew", error)
                self._revision = 0
            except StoreError as error:
                await backoff.wait(error)

    async def _relist(self, on_change: Callable[[tuple[Lease, ...]], None]) -> None:
        found = await self._store.range(self._all())
        changes = self.book.reset(found.kvs)
        self._log_changes(changes)
        on_change(self._peers())
        await self._check_own()
        self._revision = found.revision

    async def _watch(self, on_change: Callable[[tuple[Lease, ...]], None], backoff: Backoff) -> None:
        prefix = self._subnets.encode()
        first = True
        try:
            async for batch in self._store.watch(prefix, prefix_end(prefix), self._revision + 1):
                if first and not batch.events and batch.revision < self._revision:
                    raise FutureRevision(f"the store is at revision {batch.revision}, behind {self._revision}")
                first = False
                backoff.reset()
                self.synced = True
                await self._take(batch, on_change)
        finally:
            self.synced = False

    async def _take(self, batch: WatchBatch, on_change: Callable[[tuple[Lease, ...]], None]) -> None:
        changes = self.book.apply(batch.events)
        self._log_changes(changes)
        if changes:
            on_change(self._peers())
        if batch.events:
            await self._check_own()
        self._revision = max(self._revision, batch.revision)

    def _peers(self) -> tuple[Lease, ...]:
        own_key = self.own.key if self.own else ""
        return tuple(lease for key, lease in self.book.leases.items() if key != own_key)

    async def _check_own(self) -> None:
        """Compare the book with the lease we think we hold, and take it back when it is gone."""
        if self.own is None:
            return
        found = self.book.leases.get(self.own.key)
        if found is None:
            log.warning("the lease of %s was revoked or expired; taking it again", self.own.subnet)
            created = await self._create(self.own.subnet, self.own.attrs)
            if created is None:
                found = lease_of(self.own.attrs.public_ip, await self._list())
                if found is None or found.key != self.own.key:
                    raise LeaseLost(f"subnet {self.own.subnet} was leased by another node")
            self.own = created or found
        elif found.attrs.public_ip != self.own.attrs.public_ip:
            raise LeaseLost(f"subnet {self.own.subnet} was leased by {found.attrs.public_ip}")
        elif found.revision >= self.own.revision:
            self.own = found

    def _log_changes(self, changes: tuple[LeaseChange, ...]) -> None:
        for rejection in self.book.rejected.items() - self._reported:
            log.warning("key %r is no subnet lease and is ignored: %s", *rejection)
        self._reported = set(self.book.rejected.items())
        own_key = self.own.key if self.own else ""
        for change in changes:
            if change.lease.key != own_key:
                log.info("%s", change)
