"""`kubeproxy status`: what the agent on this node has programmed, what is late, what is left out; connections."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import aiohttp
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kubeproxy.clock import Clock, SystemClock
from kubeproxy.config.types import METRICS_PORT
from kubeproxy.flags import CommandLine, Flag, FlagError, boolean, integer, number
from kubeproxy.health.http import WHERE_TO_LOOK, AddressError, parse_address
from kubeproxy.health.service_health import HealthCheckStatus
from kubeproxy.health.statusz import AgentStatus, DroppedHere, InformerStatus
from kubeproxy.logs import one_line
from kubeproxy.model.addresses import host_port
from kubeproxy.model.objects import Record
from kubeproxy.redraw import redraw, until_signalled
from kubeproxy.store.trouble import in_words
from kubeproxy.sync.status import SyncStatus
from kubeproxy.trace.question import BadQuestion
from kubeproxy.traffic.answer import Answer
from kubeproxy.traffic.question import DEFAULT_TOP, MOST, parse
from kubeproxy.traffic.report import show_services

SHOWN = 20
"""Service ports that are named in one line."""
LATE_SECONDS = 10.0
"""A change that has waited longer for the kernel is worth a word."""

WIDE = 160
"""Columns where nobody says how many there are."""
ANSWER_SECONDS = 20.0
"""A look at a very busy node's connections takes its time."""


def _seconds(text: str) -> float:
    seconds = number(text)
    if not 0.1 <= seconds <= 86400:
        raise ValueError(f"{text} is not between 0.1 and 86400 seconds")
    return seconds


COMMAND_LINE = CommandLine(
    "kubeproxy status",
    "Show what the agent on this node has programmed, what is late, and what is left out and why. With --services "
    "or the name of one: virtual servers, destinations and connections of each Service, as far as the kernel "
    "counts; the busiest first. A dash stands for what it does not count.",
    [
        Flag("services", boolean, False, "Show the Services' connections instead"),
        Flag("namespace", str, "", "Only Services of this namespace; that of SERVICE, where it names none", "n"),
        Flag("top", integer, DEFAULT_TOP, f"How many Service ports are shown, up to {MOST}"),
        Flag(
            "watch", _seconds, 0.0, "Show it anew every so many seconds, until Ctrl-C (--watch: 2)", "w", bare="2"
        ),
        Flag("output", str, "text", "text or json", "o"),
        Flag("metrics-address", str, f"127.0.0.1:{METRICS_PORT}", "Where the agent's --metrics-bind-address is"),
    ],
    arguments="[SERVICE[.NAMESPACE]]",
)
T = TypeVar("T", AgentStatus, Answer)


class Failed(Exception):
    """The agent gives no answer; the text says why."""


class Request(Record, frozen=True, kw_only=True):
    """What the command line asks for."""

    agent: tuple[str, int]
    services: Mapping[str, str] | None
    """The question about Services; None: the agent's own state."""
    watch: float
    """Seconds; 0: once."""
    output: str


def main(argv: Sequence[str]) -> int:
    """Print the status; return 1 when no agent answers, 3 when something is late, left out or cannot be read.

    With --watch it is 0 when a signal ends it.
    """
    request = COMMAND_LINE.parse_or_exit(argv, check=_request)
    console = Console(force_terminal=False if request.output == "json" else None)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    try:
        return asyncio.run(_run(request, console, SystemClock()))
    except Failed as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


async def _run(request: Request, console: Console, clock: Clock) -> int:
    status = await _draw(request, console) if not request.watch else 0
    if request.watch:
        await until_signalled(_watch(request, console, clock))
    return status


async def _watch(request: Request, console: Console, clock: Clock) -> None:
    """Draw until cancelled. An agent that is away later on may come back. Raises Failed at the first picture."""
    has_answered = False

    async def draw(console: Console) -> None:
        nonlocal has_answered
        try:
            await _draw(request, console)
            has_answered = True
        except Failed as error:
            if not has_answered:
                raise
            console.print(Text(f"{one_line(str(error))} Trying again."), soft_wrap=True)

    await redraw(draw, console, clock, request.watch)


async def _draw(request: Request, console: Console) -> int:
    answer: AgentStatus | Answer
    if request.services is None:
        answer = await _ask(request, AgentStatus)
    else:
        answer = await _ask(request, Answer)
    if request.output == "json":
        encoded = msgspec.json.encode(answer)
        console.out((encoded if request.watch else msgspec.json.format(encoded)).decode(), highlight=False)
        return 3 if isinstance(answer, Answer) and answer.unread else 0
    return show(answer, console) if isinstance(answer, AgentStatus) else show_services(answer, console)


async def _ask(request: Request, kind: type[T]) -> T:
    where = host_port(*request.agent)
    path = "/statusz.json" if request.services is None else "/services"
    try:
        return await fetch(f"http://{where}{path}", kind, request.services)
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise Failed(f"no agent answers at {where}: {_reason(error)}. {WHERE_TO_LOOK}") from None


def _request(values: dict[str, Any]) -> Request:
    words, namespace = values["arguments"], values["namespace"]
    if len(words) > 1:
        raise FlagError("name one Service, or none")
    if values["output"] not in ("text", "json"):
        raise FlagError(f'invalid argument "{values["output"]}" for "--output" flag: text or json')
    try:
        agent = parse_address(values["metrics-address"], METRICS_PORT)
    except AddressError as error:
        raise FlagError(f"metrics-address: {error}") from None
    services = None
    if words or namespace or values["services"]:
        services = {"top": str(values["top"])}
        if words:
            name, _, own = words[0].partition(".")
            services["service"] = f"{own or namespace or 'default'}/{name}"
        elif namespace:
            services["namespace"] = namespace
        try:
            parse(services)
        except BadQuestion as error:
            raise FlagError(str(error)) from None
    return Request(agent=agent, services=services, watch=values["watch"], output=values["output"])


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.DecodeError):
        return f"something else does ({error})"
    return in_words(error)


async def fetch(url: str, kind: type[T], query: Mapping[str, str] | None = None) -> T:
    """Ask an agent. Raises Failed in its own words; aiohttp.ClientError, TimeoutError, msgspec.DecodeError."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as session:
        async with session.get(url, params=query) as answer:
            body = await answer.read()
            if query is not None and answer.status in (400, 404, 503):
                with contextlib.suppress(msgspec.DecodeError):
                    raise Failed(msgspec.json.decode(body, type=_Refusal).error)
            answer.raise_for_status()
            return msgspec.json.decode(body, type=kind)


class _Refusal(Record, frozen=True):
    error: str


def show(status: AgentStatus, console: Console) -> int:
    """Print a status; return the exit status that it deserves."""
    console.print(Text(f"node {status.node}, mode {status.mode} ({status.flavour})"))
    console.print("", _informers(status.informers), "", _families(status), "", sep="\n")
    if status.health_checks:
        console.print(_health_checks(status.health_checks), "", sep="\n")
    absent = [f"{family.label} is not served: {why}" for family, why in status.not_served]
    for line in (*absent, *status.hints, *status.waiting, *_dropped(status.dropped_here)):
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


def _dropped(families: tuple[DroppedHere, ...]) -> Iterator[str]:
    """Say what is dropped here on purpose: it is as the policy wants it, and looks like a fault to a client."""
    for family in families:
        for traffic, ports in (("cluster IP", family.cluster_ip), ("external", family.external)):
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
