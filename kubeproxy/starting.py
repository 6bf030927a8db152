"""The first moments of a command, and its last: load its module, run its `main`, and end without a traceback.

Ctrl-C is none at any time, and neither is a reader who has seen enough (`kubeproxy status | head`).
"""

import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

INTERRUPTED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE
"""Exit statuses, as a shell's."""


def run_command(module: str, argv: Sequence[str]) -> int:
    """Import a module, call its ``main(argv)`` and return the exit status."""
    try:
        status: int = _loaded(module).main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # some other pipe or connection: a mistake of ours
        # What is left in the buffer goes nowhere; the interpreter would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return UNREAD
    return status


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _loaded(module: str) -> ModuleType:
    """Import a command, with Ctrl-C ending the process at once: nothing has begun yet.

    A KeyboardInterrupt in the middle of loading a C extension has crashed the interpreter (seen: SIGSEGV).
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return importlib.import_module(module)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
