"""What the lab's commands print: progress of a launch, and the table of `lab status`."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kubeproxy.lab import layout
from kubeproxy.lab.init import Report
from kubeproxy.lab.state import Lab, State

_NSPID = re.compile(r"^NSpid:\t\d+\t(\d+)$", re.MULTILINE)


PLAIN_WIDTH = 160
"""Columns when the output is no terminal: what is read by a program must not be folded."""


def console() -> Console:
    """Return where to print."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def follow(console: Console, reports: Iterable[Report]) -> list[tuple[str, float]]:
    """Show the steps of a launch while they happen; return each with its seconds."""
    steps: list[tuple[str, float]] = []
    with console.status("starting") as spinner:
        for report in reports:
            if report.warning:
                console.print(f" [red]✗[/red] {escape(report.warning)}", highlight=False, soft_wrap=True)
            elif report.seconds is None:
                spinner.update(report.step)
            elif report.step:
                steps.append((report.step, report.seconds))
                console.print(
                    f" [green]✓[/green] {report.step} [dim]({report.seconds:.1f} s)[/dim]", highlight=False
                )
    return steps


def host_pids(lab: Lab) -> dict[int, int]:
    """Return the number on the host of each of a lab's processes, by its number inside the lab."""
    try:
        inside = Path(f"/proc/{lab.record.init.pid}/ns/pid").stat().st_ino
    except OSError:
        return {}
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns/pid").stat().st_ino == inside:
                match = _NSPID.search((entry / "status").read_text())
                if match:
                    found[int(match[1])] = int(entry.name)
        except OSError:
            continue  # Ended meanwhile, or another user's.
    return found


def status(console: Console, lab: Lab) -> None:
    """Print one lab's state, address, machines and programs; numbers are the host's, for `kill`."""
    record, doing = lab.record, lab.state
    colour = {State.RUNNING: "green", State.STARTING: "yellow", State.DEAD: "red"}[doing]
    console.print(f"[bold]{record.name}[/bold]  [{colour}]{doing}[/{colour}]", highlight=False)
    if doing is State.DEAD:
        console.print(f"  its processes are gone: `kubeproxy lab up --name {record.name}` starts it anew,")
        console.print(f"  `kubeproxy lab down {record.name}` removes what it left")
        return
    console.print(f"  API       https://127.0.0.1:{record.api_port}", highlight=False)
    nodes = "" if record.vm == layout.NO_VM else f", nodes are machines ({record.vm})"
    console.print(f"  mode      {record.mode}, overlay {record.overlay}{nodes}", highlight=False)
    console.print(f"  init      {record.init.pid}", highlight=False)
    console.print(f"  logs      {lab.directory}/logs", highlight=False, soft_wrap=True)
    table = Table("MACHINE", "ADDRESS", "PROGRAM", "PID", "RESTARTS", "STATE", box=None, pad_edge=False)
    pids = host_pids(lab)
    machine = ""
    for program in sorted(
        lab.status().programs, key=lambda row: (row.machine != "control", row.machine, row.name)
    ):
        first = program.machine != machine
        machine = program.machine
        table.add_row(
            machine if first else "",
            layout.machine_address(machine) if first else "",
            program.name,
            str(pids.get(program.pid, "-")),
            str(program.restarts),
            escape(program.state),
        )
    console.print(table)
    for program in lab.status().programs:
        if program.last_words:
            console.print(f"\n  {program.machine} is down; its console's last lines:", highlight=False)
            for line in program.last_words:
                console.print(f"  | {line}", markup=False, highlight=False, soft_wrap=True)
