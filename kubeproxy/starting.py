"""The first moments of a command: load its module, run its `main`, and let Ctrl-C be no traceback at any time."""

import importlib
import signal
from collections.abc import Sequence
from types import ModuleType


def run_command(module: str, argv: Sequence[str]) -> int:
    """Import a module, call its ``main(argv)`` and return the exit status; 130, as a shell's, after Ctrl-C."""
    try:
        status: int = _loaded(module).main(argv)
    except KeyboardInterrupt:
        return 130
    return status


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
