"""A full sync without Python's garbage collector: it would go through all that is being made, and free nothing."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Let cycles lie for as long as this takes; whoever finds the collector running starts it again at the end.

    It is one for all threads: of two that pause it, the first has it run again.
    """
    was_running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_running:
            gc.enable()
