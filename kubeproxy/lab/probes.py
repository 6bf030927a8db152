"""Readiness, liveness and startup probes, judged and timed as the kubelet does it (pkg/kubelet/prober).

`judge` is pure: what one more outcome makes of a probe's state. `follow` is the rim's loop: it waits by the given
clock, asks the given check and reports each verdict that changes. One difference to upstream, on purpose: the
first check comes exactly initialDelaySeconds after the start, not at the next multiple of the period, so that a
pod in the lab is ready as soon as its spec allows.
"""

import logging
from collections.abc import Awaitable, Callable

import msgspec

from kubeproxy.clock import Clock

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[str]]
"""Asks the container once; returns "" when it is well, else what is wrong."""


class HttpHeader(msgspec.Struct, frozen=True, kw_only=True):
    """httpGet.httpHeaders[]."""

    name: str
    value: str = ""


class HttpGet(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """httpGet; a port may be named."""

    port: int | str
    host: str | None = None
    path: str | None = None
    scheme: str | None = None
    http_headers: tuple[HttpHeader, ...] | None = None


class TcpSocket(msgspec.Struct, frozen=True, kw_only=True):
    """tcpSocket; a port may be named."""

    port: int | str
    host: str | None = None


class ExecAction(msgspec.Struct, frozen=True, kw_only=True):
    """exec, also as a preStop hook."""

    command: tuple[str, ...] = ()


class ProbeSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A container's probe, with the API's defaults."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: ExecAction | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class ProbeState(msgspec.Struct, frozen=True, kw_only=True):
    """``healthy`` None: not decided yet. ``run``: how often the last outcome came in a row."""

    healthy: bool | None = None
    last: bool | None = None
    run: int = 0


def judge(spec: ProbeSpec, state: ProbeState, success: bool) -> ProbeState:
    """Return the state after one more outcome: it changes only when a threshold is reached."""
    run = state.run + 1 if state.last == success else 1
    threshold = spec.success_threshold if success else spec.failure_threshold
    healthy = success if run >= threshold else state.healthy
    return ProbeState(healthy=healthy, last=success, run=run)


async def follow(
    spec: ProbeSpec,
    check: Check,
    *,
    clock: Clock,
    age: float,
    initial: bool | None,
    report: Callable[[bool, str], None],
) -> None:
    """Probe until cancelled; ``age`` is how long the container has run, ``initial`` its verdict so far."""
    state = ProbeState(healthy=initial)
    await clock.sleep(max(0.0, spec.initial_delay_seconds - age))
    while True:
        began = clock.now()
        complaint = await check()
        after = judge(spec, state, not complaint)
        if after.healthy is not None and after.healthy != state.healthy:
            report(after.healthy, complaint)
        state = after
        await clock.sleep(max(0.0, spec.period_seconds - (clock.now() - began)))
