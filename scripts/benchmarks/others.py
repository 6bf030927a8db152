"""The benchmarks that have no modes, as rows: the API server, lists, UDP flows, the first answer in a lab."""

import asyncio
from collections.abc import Callable, Sequence

import agent_list
import api
import first_answer
import flows
from figures import Row, Size, rows


def agent_list_rows(sizes: Sequence[Size]) -> list[Row]:
    """Measure lists of a large cluster; beside its reader's own CPU time."""
    return [
        Row(
            what=found["what"],
            mode="",
            services=size.services,
            seconds=found["seconds"],
            p50_ms=found["seconds"] * 1000,
            floor="the reader's own CPU time",
            floor_seconds=found["cpu_seconds"],
            ratio=found["seconds"] / found["cpu_seconds"],
            cpu_seconds=found["cpu_seconds"],
            rss_mib=found["rss_mib"],
        )
        for size in sizes
        for found in asyncio.run(agent_list.measure(size.services))
    ]


def api_rows(sizes: Sequence[Size]) -> list[Row]:
    """Measure the API server over each store; beside the bare store."""
    return [
        Row(
            what=found.what,
            mode=found.store,
            services=size.services,
            seconds=found.p50,
            p50_ms=found.p50 * 1000,
            p99_ms=None if found.p99 is None else found.p99 * 1000,
            floor="the bare store",
            floor_seconds=found.floor,
            ratio=found.p50 / found.floor,
            rss_mib=found.rss_mib,
        )
        for size in sizes
        for found in api.measure(size.services)
    ]


def flows_rows(sizes: Sequence[Size]) -> list[Row]:
    """Measure the end of as many UDP flows as the size has Services; beside `conntrack -D`."""
    return [
        row
        for size in sizes
        for found in (flows.in_own_namespace(size.services),)
        for row in rows("so many UDP flows ended", "", size, [found["ours"]], {"conntrack -D": [found["bare"]]})
    ]


def first_answer_rows(sizes: Sequence[Size]) -> list[Row]:
    """Measure kubectl apply to the first answer, in a lab; whatever the sizes."""
    return [
        row
        for found in first_answer.measure()
        for row in rows(
            found.what, "iptables", Size(1), [found.seconds], {"kubectl's own start": [found.floor_seconds]}
        )
    ]


OTHERS: dict[str, Callable[[Sequence[Size]], list[Row]]] = {
    "agent-list": agent_list_rows,
    "first-answer": first_answer_rows,
    "api": api_rows,
    "flows": flows_rows,
}
