"""`kubeproxy status`: what the agent on this node has programmed, what is late, and what is left out."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from kubeproxy.flags import CommandLine, Flag, FlagError
from kubeproxy.health.http import AddressError, parse_address
from kubeproxy.options import METRICS_PORT

COMMAND_LINE = CommandLine(
    "kubeproxy status",
    "Show what the agent on this node has programmed, what is late, and what is left out and why.",
    [Flag("metrics-address", str, f"127.0.0.1:{METRICS_PORT}", "Where the agent's --metrics-bind-address is")],
)


def main(argv: Sequence[str]) -> int:
    """Print the status; return 1 when no agent answers and 3 when something is late or left out."""
    host, port = COMMAND_LINE.parse_or_exit(argv, check=_address)
    try:
        status = asyncio.run(_fetch(f"http://{host}:{port}/statusz.json"))
    except (aiohttp.ClientError, TimeoutError) as error:
        print(f"Error: no agent answers at {host}:{port}: {error}", file=sys.stderr)
        return 1
    return _show(status, Console())


def _address(values: dict[str, Any]) -> tuple[str, int]:
    try:
        return parse_address(values["metrics-address"], METRICS_PORT)
    except AddressError as error:
        raise FlagError(f"metrics-address: {error}") from None


async def _fetch(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        async with session.get(url, raise_for_status=True) as answer:
            found: dict[str, Any] = await answer.json()
            return found


def _show(status: dict[str, Any], console: Console) -> int:
    console.print(f"node [bold]{status['node']}[/]  mode {status['mode']} ({status['flavour']})")
    console.print(_informers(status["informers"]))
    console.print(_families(status))
    complaints = list(_complaints(status))
    for line in complaints:
        console.print(f"[red]•[/] {line}", highlight=False)
    return 3 if complaints else 0


def _informers(informers: dict[str, Any]) -> Table:
    table = Table("watch", "synced", "connected", "objects", "failures")
    for name, each in informers.items():
        table.add_row(
            name, _yes(each["synced"]), _yes(each["connected"]), str(each["objects"]), str(each["failures"])
        )
    return table


def _families(status: dict[str, Any]) -> Table:
    table = Table("family", "ports", "endpoints", "last sync", "took", "syncs", "failures", "drifts repaired")
    for each in status["families"]:
        last = each["last_success"]
        age = "never" if last is None else f"{timedelta(seconds=round(status['now'] - last))} ago"
        table.add_row(
            f"IPv{each['family']}",
            str(each["ports"]),
            str(each["endpoints"]),
            age,
            f"{each['duration'] * 1000:.0f} ms",
            f"{each['syncs']} ({each['full_syncs']} full)",
            str(each["failures"]),
            str(each["drifts"]),
        )
    return table


def _complaints(status: dict[str, Any]) -> Sequence[str]:
    lines = []
    for name, informer in status["informers"].items():
        if not informer["synced"]:
            lines.append(f"{name}: the API server has not answered yet")
        elif not informer["connected"]:
            lines.append(f"{name}: the API server is away; the last good state is kept")
        lines += [f"{name} {text}" for text in informer["rejected"]]
    for family in status["families"]:
        if family["last_error"]:
            lines.append(f"the last sync failed: {family['last_error']}")
        lines += [f"{name} is left out: {why}" for name, why in family["quarantined"]]
        lines += [
            "{kind} {namespace}/{name}: {field} {value} is {reason}; it is left out".format(**rejection)
            for rejection in family["rejected"]
        ]
    return lines


def _yes(value: bool) -> str:
    return "yes" if value else "[red]no[/]"
