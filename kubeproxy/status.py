"""`kubeproxy status`: what the agent on this node has programmed, what is late, and what is left out."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import aiohttp
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kubeproxy.config.types import METRICS_PORT
from kubeproxy.flags import CommandLine, Flag, FlagError
from kubeproxy.health.http import WHERE_TO_LOOK, AddressError, parse_address
from kubeproxy.health.service_health import HealthCheckStatus
from kubeproxy.health.statusz import AgentStatus, InformerStatus
from kubeproxy.logs import one_line
from kubeproxy.model.addresses import host_port
from kubeproxy.store.trouble import in_words
from kubeproxy.sync.syncer import SyncStatus

SHOWN = 20
"""Service ports that are named in one line."""
LATE_SECONDS = 10.0
"""A change that has waited longer for the kernel is worth a word."""

COMMAND_LINE = CommandLine(
    "kubeproxy status",
    "Show what the agent on this node has programmed, what is late, and what is left out and why.",
    [Flag("metrics-address", str, f"127.0.0.1:{METRICS_PORT}", "Where the agent's --metrics-bind-address is")],
)


def main(argv: Sequence[str]) -> int:
    """Print the status; return 1 when no agent answers and 3 when something is late or left out."""
    host, port = COMMAND_LINE.parse_or_exit(argv, check=_address)
    where = host_port(host, port)
    try:
        status = asyncio.run(fetch(f"http://{where}/statusz.json"))
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        print(f"Error: no agent answers at {where}: {_reason(error)}. {WHERE_TO_LOOK}", file=sys.stderr)
        return 1
    return show(status, Console())


def _address(values: dict[str, Any]) -> tuple[str, int]:
    try:
        return parse_address(values["metrics-address"], METRICS_PORT)
    except AddressError as error:
        raise FlagError(f"metrics-address: {error}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.DecodeError):
        return f"something else does ({error})"
    return in_words(error)


async def fetch(url: str) -> AgentStatus:
    """Ask an agent. Raises aiohttp.ClientError, TimeoutError, msgspec.DecodeError."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        async with session.get(url, raise_for_status=True) as answer:
            return msgspec.json.decode(await answer.read(), type=AgentStatus)


def show(status: AgentStatus, console: Console) -> int:
    """Print a status; return the exit status that it deserves."""
    console.print(Text(f"node {status.node}, mode {status.mode} ({status.flavour})"))
    console.print("", _informers(status.informers), "", _families(status), "", sep="\n")
    if status.health_checks:
        console.print(_health_checks(status.health_checks), "", sep="\n")
    absent = [f"{family.label} is not served: {why}" for family, why in status.not_served]
    for line in (*absent, *status.hints, *status.waiting, *_no_local(status.families)):
        console.print(Text(one_line(line)), soft_wrap=True)
    complaints = list(dict.fromkeys(_complaints(status)))  # what is wrong with a Service is so in both families
    for line in complaints:
        # Plain text: what is quoted in it comes from the cluster, and may try to be markup or a terminal's escape.
        console.print(Text.assemble(("• ", "red"), one_line(line)), soft_wrap=True)
    return 3 if complaints else 0


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def _informers(informers: dict[str, InformerStatus]) -> Table:
    table = _table("watch", "synced", "connected", "objects", "failures")
    for name, each in informers.items():
        table.add_row(name, _yes(each.synced), _yes(each.connected), str(each.objects), str(each.failures))
    return table


def _families(status: AgentStatus) -> Table:
    table = _table("family", "ports", "endpoints", "last sync", "took", "syncs", "failures", "drifts")
    for each in status.families:
        last = each.last_success
        age = "never" if last is None else f"{timedelta(seconds=round(status.wall - last))} ago"
        table.add_row(
            each.family.label,
            str(each.ports),
            str(each.endpoints),
            age,
            f"{each.duration * 1000:.0f} ms",
            f"{each.syncs} ({each.full_syncs} full)",
            str(each.failures),
            str(each.drifts),
        )
    return table


def _health_checks(checks: tuple[HealthCheckStatus, ...]) -> Table:
    table = _table("health check of", "family", "node port", "local endpoints", "listens")
    for each in checks:
        name, family = Text(one_line(each.service)), each.family.label
        table.add_row(name, family, str(each.port), str(each.endpoints), _yes(not each.trouble))
    return table


def _no_local(families: tuple[SyncStatus, ...]) -> Iterator[str]:
    """Say what is dropped here on purpose: it is as the policy wants it, and looks like a fault to a client."""
    for family in families:
        for traffic, ports in (("cluster IP", family.no_local_internal), ("external", family.no_local_external)):
            if ports:
                more = f" and {len(ports) - SHOWN} more" if len(ports) > SHOWN else ""
                listed = ", ".join(ports[:SHOWN])
                yield f"{family.family.label} {traffic} traffic is dropped, no local endpoints: {listed}{more}"


def _complaints(status: AgentStatus) -> Iterator[str]:
    for name, informer in status.informers.items():
        since = ""
        if informer.away_since is not None:
            since = f" for {timedelta(seconds=round(status.wall - informer.away_since))} ({informer.trouble})"
        if not informer.synced:
            yield f"{name}: the API server has not answered yet{since}"
        elif not informer.connected:
            yield f"{name}: the API server is away{since}; the last good state is kept"
        yield from (f"{name} {text}; it is left out" for text in informer.rejected)
    for check in status.health_checks:
        if check.trouble:
            port = f"{check.service}: health check node port {check.port} ({check.family.label})"
            yield f"{port} is not open: {check.trouble}"
    for family in status.families:
        yield from _troubles(family, status.clock)
    yield from (f"left by another proxy: {text}" for text in status.leftovers)


def _troubles(family: SyncStatus, now: float) -> Iterator[str]:
    if family.last_error:
        yield f"the last sync failed: {family.last_error}"
    if family.flows.error:
        yield f"UDP flows to endpoints that are gone may remain, and are looked for again: {family.flows.error}"
    if family.queued_since is not None and now - family.queued_since > LATE_SECONDS:
        yield f"a change has waited {now - family.queued_since:.0f} s for the kernel"
    yield from (f"{name} is left out: {why}" for name, why in family.quarantined)
    yield from (f"{name} is served otherwise than asked: {why}" for name, why in family.notes)
    yield from (f"{rejection}; it is left out" for rejection in family.rejected)


def _yes(value: bool) -> Text:
    return Text("yes") if value else Text("no", "red")
