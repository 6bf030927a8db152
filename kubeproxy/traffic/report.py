"""`GET /services`' answer as text: a table for each Service port. Names come from the cluster: plain text only."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kubeproxy.logs import one_line
from kubeproxy.traffic.answer import Answer, Counts, Port, Server

_COLUMNS = ("weight", "active", "inactive", "conns", "conns/s", "B/s in", "B/s out")


def show_services(answer: Answer, console: Console) -> int:
    """Print an answer; return the exit status that it deserves: 3 when something could not be read."""
    console.print(Text(f"node {answer.node}, mode {answer.mode}; counted by {answer.counted_by}"))
    for port in answer.ports:
        console.print("", Text(_title(port), "bold"), sep="\n", soft_wrap=True)
        if port.servers:
            console.print(_table(port.servers))
    if not answer.ports:
        console.print("", "No Service is served here." if not answer.unread else "", sep="\n")
    if answer.left_off:
        more = f"and {answer.left_off} more Service ports; --top, --namespace or a Service's name shows others"
        console.print("", Text(more), sep="\n", soft_wrap=True)
    if answer.foreign:
        console.print("", Text("virtual servers that are not kubeproxy's", "bold"), sep="\n")
        console.print(_table(answer.foreign))
        if answer.foreign_left_off:
            console.print(Text(f"and {answer.foreign_left_off} more; ipvsadm -Ln lists them"), soft_wrap=True)
    if answer.unread:
        console.print()
    for line in answer.unread:
        console.print(Text.assemble(("• ", "red"), one_line(line)), soft_wrap=True)
    return 3 if answer.unread else 0


def _title(port: Port) -> str:
    name = one_line(port.service) or "(no Service)"
    note = f": {port.note}" if port.note else ""
    return f"{name} {port.protocol} {port.family}{note}"


def _table(servers: tuple[Server, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("address", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for server in servers:
        table.add_row(_server(server), "", *_numbers(server.counts))
        for each in server.destinations:
            text = Text(f"  → {each.endpoint}")
            if each.draining:
                text.append(" draining", "yellow")
            table.add_row(text, _count(each.weight), *_numbers(each.counts))
        if server.left_off:
            table.add_row(Text(f"  and {server.left_off} more"))
        elif not server.destinations:
            table.add_row(Text("  no destination"))
    return table


def _server(server: Server) -> Text:
    words = [f"{server.address}/{server.protocol}" if server.protocol else server.address, server.way]
    words.append(server.scheduler)
    if server.affinity_seconds:
        words.append(f"persistent {server.affinity_seconds} s")
    return Text(" ".join(filter(None, words)))


def _numbers(counts: Counts) -> Iterator[str]:
    for number in (counts.active, counts.inactive, counts.connections):
        yield _count(number)
    for rate in (counts.connections_rate, counts.bytes_in_rate, counts.bytes_out_rate):
        yield "-" if rate is None else _rate(rate)


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _rate(rate: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= size * 10:
            return f"{rate / size:.0f}{unit}"
        if rate >= size:
            return f"{rate / size:.1f}{unit}"
    return f"{rate:.1f}".removesuffix(".0")
