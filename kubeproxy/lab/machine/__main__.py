"""Machines by hand.

    python -m kubeproxy.lab.machine boot --directory D [--memory 256M] [--nic TAP,MAC]... [-- COMMAND...]
    python -m kubeproxy.lab.machine boot --directory D [--memory 256M] --kernel DIRECTORY [-- COMMAND...]
    python -m kubeproxy.lab.machine exec [-t] D COMMAND...

`boot` holds the machine until SIGTERM or SIGINT; with a command it ends with that, with its output and status.
`exec` runs a command inside.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kubeproxy.lab.machine import client
from kubeproxy.lab.machine.machine import Report
from kubeproxy.lab.machine.spec import MachineError, Nic, Spec
from kubeproxy.lab.machine.warden import Warden

NO_MACHINE = 125


def _nic(text: str) -> Nic:
    tap, comma, mac = text.partition(",")
    if not comma:
        raise argparse.ArgumentTypeError(f"{text!r} is not TAP,MAC")
    return Nic(tap, mac)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kubeproxy.lab.machine", allow_abbrev=False)
    commands = parser.add_subparsers(dest="what", required=True)
    boot = commands.add_parser("boot", help="boot a machine and hold it", allow_abbrev=False)
    boot.add_argument("--directory", required=True, type=Path, help="for its console's log and its socket")
    boot.add_argument("--name", default="machine")
    boot.add_argument("--memory", default="256M")
    boot.add_argument(
        "--kernel", default="", metavar="DIRECTORY", help="one for User-Mode Linux, or Debian's for QEMU"
    )
    boot.add_argument("--nic", action="append", default=[], type=_nic, metavar="TAP,MAC")
    boot.add_argument("--netns", default="", metavar="PATH", help="the network namespace that the taps are in")
    boot.add_argument("--share", action="append", default=[], metavar="DIRECTORY", help="written through")
    boot.add_argument("--boot-seconds", type=float, default=60.0)
    boot.add_argument("--lifeline", action="store_true", help="end with the end of standard input")
    boot.add_argument("--report", action="store_true", help="say in a line of JSON how the boot went")
    boot.add_argument("command", nargs="*")
    run = commands.add_parser("exec", help="run a command in a machine that is held", allow_abbrev=False)
    run.add_argument("-t", "--tty", action="store_true", help="on a terminal")
    run.add_argument("directory", type=Path)
    run.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _tell(given: argparse.Namespace, report: Report) -> None:
    if given.report:
        print(msgspec.json.encode(report).decode(), flush=True)


async def hold(given: argparse.Namespace) -> int:
    """Boot a machine, hold it until the first reason to end, and return the exit status."""
    spec = Spec(
        name=given.name,
        memory=given.memory,
        kernel=given.kernel,
        nics=tuple(given.nic),
        netns=given.netns,
        shared=tuple(given.share),
        boot_seconds=given.boot_seconds,
    )
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, enough.set)

    def lifeline() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            enough.set()

    if given.lifeline:
        loop.add_reader(0, lifeline)
    warden = Warden(spec, given.directory)
    stopped = asyncio.ensure_future(enough.wait())
    try:
        boot = asyncio.ensure_future(warden.boot())
        either: set[asyncio.Future[Any]] = {boot, stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not boot.done():
            boot.cancel()
            return NO_MACHINE
        if isinstance(error := boot.exception(), MachineError):
            _tell(given, Report(error=str(error)))
        _tell(given, Report(seconds=boot.result(), release=warden.release))
        ended = asyncio.ensure_future(warden.ended())
        command = {warden.start_command(given.command)} if given.command else set()
        futures: set[asyncio.Future[Any]] = {stopped, ended, *command}
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        for future in command:
            if future.done():
                return future.result()
        if ended.done():
            raise MachineError(ended.result())
        return 0
    finally:
        await warden.stop()


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; errors are one line, and the status 125."""
    given = _parser().parse_args(argv)
    try:
        if given.what == "exec":
            return client.attach(given.directory, given.command, terminal=given.tty)
        return asyncio.run(hold(given))
    except MachineError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return NO_MACHINE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
