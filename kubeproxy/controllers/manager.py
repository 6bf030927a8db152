"""The endpoint controllers put together: one index, three loops, upstream's names for them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from kubeproxy.clock import Clock
from kubeproxy.controllers.election import Guard, unguarded
from kubeproxy.controllers.index import Cause, Index
from kubeproxy.controllers.loop import ControlLoop
from kubeproxy.controllers.objects import Key
from kubeproxy.controllers.reconcilers import Writer, reconcile_endpoints, reconcile_mirror, reconcile_slices
from kubeproxy.store.kube import KubeClient

Reconciler = Callable[[Index, Writer, Key], Awaitable[None]]

ENDPOINTS_REST_SECONDS = 0.5
"""Endpoints of 1,000 addresses are 140 KB to write for each pod that changes, and no proxy of today reads them."""

_CONTROLLERS: tuple[tuple[str, Reconciler, tuple[Cause, ...]], ...] = (
    ("EndpointSlices", reconcile_slices, (Cause.SERVICE, Cause.POD, Cause.ZONE, Cause.SLICE)),
    ("mirrored EndpointSlices", reconcile_mirror, (Cause.SERVICE, Cause.ENDPOINTS, Cause.SLICE)),
    ("Endpoints", reconcile_endpoints, (Cause.SERVICE, Cause.POD, Cause.ENDPOINTS)),
)


def _unshown(_loop: ControlLoop) -> None:
    """Show nothing."""


async def run_endpoint_controllers(
    client: KubeClient,
    *,
    clock: Clock,
    guard: Guard = unguarded,
    endpoints_rest: float = ENDPOINTS_REST_SECONDS,
    show: Callable[[ControlLoop], None] = _unshown,
) -> None:
    """Keep EndpointSlices and Endpoints until cancelled; ``guard`` is asked before each write.

    ``show`` is told each control loop, for whoever shows how they do.
    """
    index = Index(client, clock=clock)
    writer = Writer(client, index, guard)
    loops = []
    for what, reconcile, causes in _CONTROLLERS:
        rest = endpoints_rest if reconcile is reconcile_endpoints else 0.0
        loop = ControlLoop(what, partial(reconcile, index, writer), clock=clock, rest=rest)
        index.tell(loop.touch, causes)
        show(loop)
        loops.append(loop)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(index.run())
        await index.synced()
        for loop in loops:
            tasks.create_task(loop.run())
