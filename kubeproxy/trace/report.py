"""Answers → text, for people. What the cluster named is escaped: it may be markup, or a terminal's command."""

import io
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kubeproxy.logs import one_line
from kubeproxy.model.addresses import host_port
from kubeproxy.trace.answer import Answer, Candidate, PortAnswer, ServiceAnswer
from kubeproxy.trace.verdict import HAIRPIN

MOST_ENDPOINTS = 50
"""So many endpoints are shown of a kind: JSON has all."""
WIDEST = 400
"""Columns of the table of endpoints: a pod's name is to be copied, so it is the terminal that breaks a line."""
_STYLES = {"FORWARD": "green", "REFUSED": "red", "DROPPED": "red", "NOT OURS": "yellow"}


def show_packet(answer: Answer, console: Console) -> None:
    """Print a verdict, and what was found beside it."""
    packet = answer.packet
    by = f", by {packet.interface}" if packet.interface else ""
    there = host_port(packet.destination, packet.port)
    _line(
        console,
        f"{packet.source} ({packet.origin}{by}) → {there}/{packet.protocol}   "
        f"node {answer.node}, {answer.mode} ({answer.flavour}), {answer.family}",
    )
    console.print()
    for number, step in enumerate(answer.steps, 1):
        _line(console, f"{number:2} {step.text}")
        if step.rule:
            _line(console, f"     {step.rule}", "dim")
    console.print()
    if answer.endpoints:
        _print_wide(_endpoints(answer.endpoints), console)
        console.print()
    outcome = (answer.outcome, _STYLES.get(answer.outcome, ""))
    console.print(Text.assemble(outcome, one_line(_summary(answer))), soft_wrap=True)
    if answer.live is not None:
        agrees = "" if answer.live.differences else "; model agrees"
        _line(console, f"kernel: {answer.live.path}{agrees}")
    differences = answer.live.differences if answer.live else ()
    for text in (*differences, *answer.warnings, *answer.findings):
        console.print(Text.assemble(("• ", "red"), one_line(text)), soft_wrap=True)


def show_service(answer: ServiceAnswer, console: Console) -> None:
    """Print everything about a Service."""
    _line(console, f"service {answer.service}   node {answer.node}, {answer.mode} ({answer.flavour})")
    for port in answer.ports:
        console.print()
        _show_port(port, console)
    console.print()
    if answer.health_check:
        _line(console, f"health-check node port {answer.health_check}")
    for text in (*answer.notes, *answer.warnings):
        console.print(Text.assemble(("• ", "red"), one_line(text)), soft_wrap=True)


def _show_port(port: PortAnswer, console: Console) -> None:
    _line(console, f"port {port.port}, {port.family}", "bold")
    for text in (*port.addresses, *port.policies):
        _line(console, f"  {text}")
    for text in port.left_out:
        console.print(Text.assemble(("  • ", "red"), one_line(text)), soft_wrap=True)
    if not (port.inside or port.outside):
        _line(console, "  no endpoints")
    for title, found in (("", port.inside), ("for clients outside the cluster:", port.outside)):
        if found:
            if title:
                _line(console, f"  {title}")
            _print_wide(_endpoints(found), console)
    for text in port.objects:
        _line(console, f"  {text}", "dim")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(one_line(text), style), soft_wrap=True)


def _print_wide(table: Table, console: Console) -> None:
    """Print a table as wide as it is."""
    wide = Console(file=io.StringIO(), width=WIDEST)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        console.print(Text(line.rstrip()), soft_wrap=True)


def _endpoints(found: Sequence[Candidate]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 1), show_edge=False)
    columns: dict[str, list[str]] = {
        "endpoint": [],
        "pod": [],
        "node": [],
        "chance": [],
        "masqueraded": [],
        " ": [],
    }
    for row in found[:MOST_ENDPOINTS]:
        chance = f"{row.chance:.1%}" if row.chance else "-"
        masked = "hairpin" if row.masquerade == HAIRPIN else "yes" if row.masquerade else ""
        cells = (row.endpoint, row.pod, row.node, chance, masked, row.left_out)
        for column, text in zip(columns, cells, strict=True):
            columns[column].append(text)
    shown = {column: texts for column, texts in columns.items() if any(texts)}
    for column in shown:
        table.add_column(column, overflow="fold")
    for line in zip(*shown.values(), strict=True):
        table.add_row(*(Text(one_line(each)) for each in line))
    if len(found) > MOST_ENDPOINTS:
        table.add_row(f"and {len(found) - MOST_ENDPOINTS} more")
    return table


def _summary(answer: Answer) -> str:
    if answer.outcome == "FORWARD":
        used = [each for each in answer.endpoints if each.chance]
        masked = sum(bool(each.masquerade) for each in used)
        how = (
            "masqueraded"
            if masked == len(used)
            else "with the client's own address"
            if not masked
            else "in part masqueraded"
        )
        where = used[0].endpoint if len(used) == 1 else f"one of {len(used)} endpoints"
        return f" to {where}, {how}"
    if answer.outcome == "NOT OURS":
        return ": no rule of ours is for it; this node's routes and other programs' rules decide"
    left = list(_counted(each.left_out for each in answer.endpoints if each.left_out))
    return f": {'; '.join(left)}" if left else ""


def _counted(reasons: Iterable[str]) -> Iterator[str]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    for reason, count in counts.items():
        yield f"{count} endpoint{'s are' if count > 1 else ' is'} left out: {reason}"
