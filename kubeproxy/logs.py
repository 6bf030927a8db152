"""Log lines as Kubernetes' components write them: klog text or JSON, so that existing collectors parse them.

Text: `Lmmdd hh:mm:ss.uuuuuu threadid file:line] msg` (klog's header); JSON: component-base's keys `ts`
(milliseconds), `caller`, `msg`, then `v` or, from warnings on, `level`; `err` has a trace.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import ClassVar

import msgspec

_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*range(0x20), *range(0x7F, 0xA0))}

DEBUG_VERBOSITY = 4
"""From this -v on (klog's "debug level"), debug lines are shown."""
FLOOD_SECONDS = 10.0
"""Between two log lines of a kind that clients can cause at will."""


class KlogFormatter(logging.Formatter):
    """klog's text format."""

    LETTERS: ClassVar[dict[int, str]] = {
        logging.DEBUG: "I",
        logging.INFO: "I",
        logging.WARNING: "W",
        logging.ERROR: "E",
        logging.CRITICAL: "F",
    }

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; a newline in a message cannot start a line of its own."""
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        letter = self.LETTERS.get(record.levelno, "I")
        header = f"{letter}{stamp}.{micros:06d} {record.process:7d} {record.filename}:{record.lineno}]"
        return f"{header} {one_line(record.getMessage())}{self._trace(record)}"

    def _trace(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """component-base's JSON format, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line: dict[str, object] = {
            "ts": round(record.created * 1000, 3),
            "caller": f"{record.filename}:{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.levelno >= logging.WARNING:
            line["level"] = record.levelname.lower()
        else:
            line["v"] = DEBUG_VERBOSITY if record.levelno < logging.INFO else 0
        if record.exc_info:
            line["err"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def one_line(text: str) -> str:
    """Escape what would let a hostile value forge a line or command the terminal that shows it."""
    return text.translate(_ESCAPED)


class Turns:
    """Lets one line in `FLOOD_SECONDS` through, of a kind that comes in floods; the clock only grows."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._next = 0.0

    def take(self) -> bool:
        """Say whether it is time for a line; if so, the next is due `FLOOD_SECONDS` later."""
        now = self._now()
        if now < self._next:
            return False
        self._next = now + FLOOD_SECONDS
        return True


class VModule(logging.Filter):
    """klog's -vmodule: another verbosity for the source files whose name, without `.py`, fits a pattern.

    The first pattern that fits counts; `verbosity` is for all other files.
    """

    def __init__(self, verbosity: int, patterns: Mapping[str, int]) -> None:
        super().__init__()
        self.verbosity = verbosity
        self._patterns = dict(patterns)

    @property
    def most(self) -> int:
        """The highest verbosity of any file."""
        return max((self.verbosity, *self._patterns.values()))

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a debug line through when its file is that verbose."""
        if record.levelno >= logging.INFO:
            return True
        fitting = (level for pattern, level in self._patterns.items() if fnmatchcase(record.module, pattern))
        return next(fitting, self.verbosity) >= DEBUG_VERBOSITY


def configure(
    logging_format: str = "text", verbosity: int = 0, patterns: Mapping[str, int] = MappingProxyType({})
) -> None:
    """Send this process' log to stderr in the given format (`text` or `json`); for ``patterns`` see `VModule`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if logging_format == "json" else KlogFormatter())
    if patterns:
        handler.addFilter(VModule(verbosity, patterns))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_verbosity(verbosity)
    # These log every connection and poll; they are worth a line only when somebody debugs them.
    for name in ("asyncio", "aiohttp.access", "pyroute2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def set_verbosity(verbosity: int) -> None:
    """Show debug lines from `DEBUG_VERBOSITY` on; in force at once, but where a `VModule` has another."""
    root = logging.getLogger()
    for each in (each for handler in root.handlers for each in handler.filters if isinstance(each, VModule)):
        each.verbosity = verbosity
        verbosity = max(verbosity, each.most)
    root.setLevel(logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO)
