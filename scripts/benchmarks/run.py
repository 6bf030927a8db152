"""`scripts/bench`: run the benchmarks that are asked for, print one table, and write JSON for programs.

Every row stands beside a floor measured in the same run, because these machines are noisy: the ratio is the
figure to keep. JSON: a list of objects with `what`, `mode`, `flavour` (iptables' or the store), `services`,
`p50_ms`, `p99_ms`, `floor_ms`, `ratio` and `rss_mib` (the process that does the work); null where a row has no
such figure.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import agent
import agent_list
import api
import dataplane
import first_answer
import flows
import ipvs
from rich.console import Console
from rich.table import Table

from kubeproxy.kernel.iptables import Flavour

WHATS = {
    "ipvs": (),
    "full-load": ("full load",),
    "one-change": ("endpoints of one Service change", "one Service is added"),
    "agent": (),
    "agent-list": (),
    "first-answer": (),
    "api": (),
    "flows": (),
}


def iptables_rows(sizes: list[int], flavour: Flavour, only: list[str]) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        result = dataplane.in_own_namespace(size, flavour)
        for what in (what for name in only for what in WHATS[name]):
            row = {"what": what, "mode": "iptables", "flavour": flavour.value, "services": size}
            figures = result[what]
            row |= {"p50_ms": figures["ours_ms"], "floor_ms": figures["bare_ms"], "ratio": figures["ratio"]}
            rows.append(row | {"rss_mib": result["resident_mb"]})
    return rows


def ipvs_rows(sizes: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "what": what,
            "mode": "ipvs",
            "flavour": "ipvs in UML",
            "services": size,
            "p50_ms": mine * 1000,
            "floor_ms": theirs * 1000,
            "ratio": mine / theirs,
            "rss_mib": None,
        }
        for size, result in ipvs.in_machine(sizes).items()
        for what, (mine, theirs) in result.items()
    ]


def agent_rows(sizes: list[int], flavour: Flavour) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        result = agent.in_own_namespace(size, flavour)
        row = {"what": "agent: start to in sync", "mode": "iptables", "flavour": flavour.value, "services": size}
        row |= {"p50_ms": result["seconds"] * 1000, "floor_ms": None, "ratio": None, "rss_mib": result["rss_mib"]}
        rows.append(row)
    return rows


def agent_list_rows(sizes: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "mode": "api",
            "flavour": "sqlite",
            "p50_ms": row["seconds"] * 1000,
            "floor_ms": row["cpu_seconds"] * 1000,
        }
        | {"ratio": row["seconds"] / row["cpu_seconds"], **row}
        for size in sizes
        for row in asyncio.run(agent_list.measure(size))
    ]


def api_rows(sizes: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "what": result.what,
            "mode": "api",
            "flavour": result.store,
            "services": size,
            "p50_ms": result.p50 * 1000,
            "p99_ms": None if result.p99 is None else result.p99 * 1000,
            "floor_ms": result.floor * 1000,
            "ratio": result.p50 / result.floor,
            "rss_mib": result.rss_mib,
        }
        for size in sizes
        for result in api.measure(size)
    ]


def flows_rows(sizes: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "what": "so many UDP flows ended",
            "mode": "any",
            "flavour": "",
            "services": size,
            "p50_ms": result["ours"] * 1000,
            "floor_ms": result["bare"] * 1000,
            "ratio": result["ours"] / result["bare"],
            "rss_mib": None,
        }
        for size in sizes
        for result in (flows.in_own_namespace(size),)
    ]


def first_answer_rows() -> list[dict[str, Any]]:
    return [
        {
            "what": result.what,
            "mode": "iptables",
            "flavour": "",
            "services": 1,
            "p50_ms": result.seconds * 1000,
            "floor_ms": result.floor_seconds * 1000,
            "ratio": result.seconds / result.floor_seconds,
            "rss_mib": None,
        }
        for result in first_answer.measure()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("what", "flavour", "Services", "ms (median)", "p99 ms", "floor ms", "ratio", "process MiB")
    for row in rows:
        row.setdefault("p99_ms", None)
        figures = [_figure(row[name], 1) for name in ("p50_ms", "p99_ms", "floor_ms")]
        figures.append(_figure(row["ratio"], 2))
        memory = _figure(row["rss_mib"], 0)
        table.add_row(row["what"], row["flavour"], f"{row['services']:,}", *figures, memory)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        "floor: the bare iptables-restore of the same text, in the same run; for ipvs, ipvsadm -R of the same; "
        "for kubectl apply, the start of kubectl itself; for the API, the bare store doing the same; "
        "for a list, the reader's own CPU time; for flows, conntrack -D"
    )


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(WHATS), help=f"what to measure, of {', '.join(WHATS)}")
    parser.add_argument("--sizes", default="1000,10000", help="numbers of Services, each with 3 endpoints")
    parser.add_argument("--flavour", default="legacy", choices=list(Flavour), type=Flavour)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    given = parser.parse_args()
    only = given.only.split(",")
    unknown = sorted(set(only) - set(WHATS))
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is not among {', '.join(WHATS)}")
    rows = []
    sizes = [int(size) for size in given.sizes.split(",")]
    if {"full-load", "one-change"} & set(only):
        rows += iptables_rows(sizes, given.flavour, only)
    if "ipvs" in only:
        rows += ipvs_rows(sizes)
    if "agent" in only:
        rows += agent_rows(sizes, given.flavour)
    if "agent-list" in only:
        rows += agent_list_rows(sizes)
    if "first-answer" in only:
        rows += first_answer_rows()
    if "api" in only:
        rows += api_rows(sizes)
    if "flows" in only:
        rows += flows_rows(sizes)
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    return 0


sys.exit(main())
