"""Lets a ServiceCIDR that is being deleted go once no address in use needs it.

As upstream's servicecidrs controller, without its grace period: an address is taken under the condition that its
ServiceCIDR has not changed, so none can appear once the deletion is written.
"""

import logging
from ipaddress import ip_address
from typing import Any

from kubeproxy.apiserver import status
from kubeproxy.apiserver.allocate import IPS
from kubeproxy.apiserver.kinds import kind_of
from kubeproxy.apiserver.registry import Registry
from kubeproxy.apiserver.servicecidrs import (
    FINALIZER,
    PREFIX,
    TERMINATING,
    ServiceCidr,
    condition,
    read_service_cidrs,
)
from kubeproxy.clock import Clock
from kubeproxy.controllers.election import Guard, unguarded
from kubeproxy.model.timestamps import timestamp
from kubeproxy.store import resources
from kubeproxy.store.base import Compacted, Range, StoreError, prefix_end

log = logging.getLogger(__name__)

Obj = dict[str, Any]

_KIND = kind_of(resources.SERVICE_CIDRS)
_RECHECK_SECONDS = 1.0
"""How often addresses are looked at while a ServiceCIDR waits to go."""


class ServiceCidrProtection:
    """Settles ServiceCIDRs that are being deleted. Run `run` as a task; ``guard`` is asked before each write."""

    def __init__(self, registry: Registry, clock: Clock, guard: Guard = unguarded) -> None:
        self._registry = registry
        self._clock = clock
        self._guard = guard
        self.failures = 0

    async def run(self) -> None:
        """Settle until cancelled; a store that is away is tried again."""
        while True:
            try:
                revision, waiting = await self.settle()
                if waiting:
                    await self._clock.sleep(_RECHECK_SECONDS)
                else:
                    await self._next_change(revision)
            except Compacted:
                log.debug("ServiceCIDR protection fell behind the store; reading everything again")
            except StoreError as error:
                self.failures += 1
                log.debug("ServiceCIDR protection waits for the store: %s", error)
                await self._clock.sleep(_RECHECK_SECONDS)

    async def settle(self) -> tuple[int, bool]:
        """Let go what can go and say of the rest why not; return the revision read and whether one waits.

        Raises StoreError.
        """
        revision, cidrs = await read_service_cidrs(self._registry.store)
        going = [cidr for cidr in cidrs if cidr.terminating]
        if not going:
            return revision, False
        used = await self._registry.store.range(Range(key=IPS, range_end=prefix_end(IPS), keys_only=True))
        staying = [network for cidr in cidrs if not cidr.terminating for network in cidr.networks]
        addresses = [ip_address(kv.key.removeprefix(IPS).decode()) for kv in used.kvs]
        orphans = [at for at in addresses if not any(at in network for network in staying)]
        waiting = False
        for cidr in going:
            if any(address in network for address in orphans for network in cidr.networks):
                waiting = True
                await self._change(cidr, self._unready, "status")
            else:
                await self._change(cidr, _released)
        return revision, waiting

    async def _next_change(self, revision: int) -> None:
        async for batch in self._registry.store.watch(PREFIX, prefix_end(PREFIX), revision + 1):
            if batch.events:
                return

    def _unready(self, obj: Obj) -> Obj:
        conditions = (obj.get("status") or {}).get("conditions") or []
        if not any(held.get("reason") == "Terminating" for held in conditions):
            why = condition(False, "Terminating", TERMINATING, timestamp(self._clock.wall()))
            others = [held for held in conditions if held.get("type") != "Ready"]
            obj["status"] = {"conditions": [*others, why]}
        return obj

    async def _change(self, cidr: ServiceCidr, transform: Any, subresource: str = "") -> None:
        self._guard()

        def guarded(obj: Obj) -> Obj:
            if "deletionTimestamp" not in obj["metadata"]:
                return obj  # Another one of the same name, made meanwhile.
            changed: Obj = transform(obj)
            return changed

        try:
            await self._registry.update(_KIND, "", cidr.name, guarded, subresource=subresource)
        except status.ApiProblem as problem:
            if problem.code not in (404, 409):
                self.failures += 1
                log.error("ServiceCIDR %s: %s", cidr.name, problem)


def _released(obj: Obj) -> Obj:
    meta = obj["metadata"]
    meta["finalizers"] = [held for held in meta.get("finalizers") or [] if held != FINALIZER]
    return obj
