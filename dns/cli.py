"""`clusterdns`: CoreDNS's command line."""

import asyncio
import logging
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dns import VERSION
from dns.corefile import CorefileError
from dns.instance import Instance
from dns.plugins import SETUP
from kubeproxy.clock import SystemClock
from kubeproxy.flags import CommandLine, Flag, FlagError, Style, boolean, integer

log = logging.getLogger(__name__)

FLAGS = (
    Flag("conf", str, "Corefile", "Corefile to load"),
    Flag("dns.port", integer, 53, "Default port", alias="p"),
    Flag("quiet", boolean, False, "Quiet mode (no initialization output)"),
    Flag("version", boolean, False, "Show version"),
    Flag("plugins", boolean, False, "List installed plugins"),
)
_LEVELS = {logging.WARNING: "WARNING", logging.ERROR: "ERROR", logging.CRITICAL: "FATAL", logging.DEBUG: "DEBUG"}


class BracketFormatter(logging.Formatter):
    """CoreDNS's lines: `[INFO] message`; a newline in a message cannot start a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        text = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"[{_LEVELS.get(record.levelno, 'INFO')}] {text}{trace}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clusterdns` and return its exit status."""
    line = CommandLine(
        "clusterdns", "Cluster DNS: the names of Services, with CoreDNS's Corefile.", FLAGS, Style.GO
    )
    options = line.parse_or_exit(sys.argv[1:] if argv is None else argv, _checked)
    if options["version"]:
        print(_version())
        return 0
    if options["plugins"]:
        print("Server types:\n  dns\n\nOther plugins:\n" + "\n".join(f"  dns.{name}" for name in sorted(SETUP)))
        return 0
    _log_to_stdout()
    if not Path(options["conf"]).is_file():
        why = "no regular file" if Path(options["conf"]).exists() else "no such file"
        print(f"loading Corefile {options['conf']}: {why}; name one with -conf", file=sys.stderr)
        return 1
    try:
        return asyncio.run(_run(options))
    except (CorefileError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    if not 0 < options["dns.port"] < 65536:
        raise FlagError(f'invalid value "{options["dns.port"]}" for flag -dns.port: not a port')
    return options


def _version() -> str:
    system = f"{platform.system().lower()}/{platform.machine()}"
    return f"clusterdns-{VERSION}\n{system}, python{platform.python_version()}"


def _log_to_stdout() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(BracketFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


async def _run(options: dict[str, Any]) -> int:
    instance = Instance(options["conf"], options["dns.port"], SystemClock(), quiet=options["quiet"])
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def reload_now() -> None:
        task = loop.create_task(instance.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, reload_now)
    await instance.start()
    if not options["quiet"]:
        print(_version(), flush=True)
    await ended.wait()
    log.info("shutting down")
    if instance.lameduck:
        log.info("plugin/health: Going into lameduck mode for %gs", instance.lameduck)
        await asyncio.sleep(instance.lameduck)
    await instance.stop()
    return 0
