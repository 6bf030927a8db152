"""/debug/pprof and /debug/flags/v (--profiling): what Python can say honestly at the paths where Go's tools look.

Samples are *folded stacks*, one line a stack with its count, the form that flame graph tools and speedscope read;
Go's protobuf would promise symbols and addresses that there are none of. Whoever may ask for a profile may slow
the agent down a little, so all of it is off by default, as upstream's.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections import Counter
from types import FrameType

from aiohttp import web

from kubeproxy.logs import set_verbosity

HERTZ = 100
DEFAULT_SECONDS = 30.0
MOST_SECONDS = 300.0
MOST_VERBOSITY = 20

INDEX = """/debug/pprof/

profile     CPU and waiting of every thread, sampled 100 times a second: /debug/pprof/profile?seconds=30
            (folded stacks: flamegraph.pl, speedscope; not what `go tool pprof` reads)
goroutine   the stack of every thread and of every asyncio task, now
cmdline     the command line
"""

_NOT_PYTHONS = ("allocs", "block", "heap", "mutex", "symbol", "threadcreate", "trace")


class Profiling:
    """The handlers; one profile at a time."""

    def __init__(self) -> None:
        self._busy = False

    def install(self, app: web.Application) -> None:
        """Add the paths."""
        app.router.add_get("/debug/pprof", self._index)
        app.router.add_get("/debug/pprof/", self._index)
        app.router.add_get("/debug/pprof/profile", self._profile)
        app.router.add_get("/debug/pprof/goroutine", self._stacks)
        app.router.add_get("/debug/pprof/cmdline", self._cmdline)
        for name in _NOT_PYTHONS:
            app.router.add_get(f"/debug/pprof/{name}", self._refuse)
        app.router.add_put("/debug/flags/v", self._set_verbosity)

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text=INDEX)

    async def _cmdline(self, _: web.Request) -> web.Response:
        return web.Response(text="\0".join(sys.orig_argv))

    async def _stacks(self, _: web.Request) -> web.Response:
        return web.Response(text=stacks())

    async def _refuse(self, request: web.Request) -> web.Response:
        text = f"{request.path} is about Go's runtime; kubeproxy is Python. /debug/pprof/ lists what there is.\n"
        return web.Response(status=501, text=text)

    async def _profile(self, request: web.Request) -> web.Response:
        seconds = _seconds(request.query.get("seconds", ""))
        if seconds is None:
            return web.Response(status=400, text=f"seconds must be a number up to {MOST_SECONDS:g}\n")
        if self._busy:
            return web.Response(status=409, text="a profile is being taken already\n")
        self._busy, stop = True, threading.Event()
        try:
            return web.Response(text=await asyncio.to_thread(sample, seconds, stop))
        finally:
            self._busy = False
            stop.set()  # the agent may be ending

    async def _set_verbosity(self, request: web.Request) -> web.Response:
        text = (await request.text()).strip()
        if not (text.isascii() and text.isdigit() and int(text) <= MOST_VERBOSITY):
            return web.Response(status=400, text=f"the body must be a number up to {MOST_VERBOSITY}\n")
        set_verbosity(int(text))
        return web.Response(text=f"successfully set klog.logging.verbosity to {text}")


def sample(seconds: float, stop: threading.Event) -> str:
    """Sample every thread but this one; return folded stacks. Blocks for so many seconds, or until stopped."""
    counts: Counter[str] = Counter()
    own, end = threading.get_ident(), time.monotonic() + seconds
    while time.monotonic() < end and not stop.wait(1 / HERTZ):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                counts[";".join((names.get(ident, "thread"), *_folded(frame)))] += 1
    return "".join(f"{stack} {count}\n" for stack, count in sorted(counts.items()))


def stacks() -> str:
    """Return the stack of every thread, then of every asyncio task of the running loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"thread {names.get(ident, '?')}:\n{''.join(traceback.format_stack(frame))}")
    for task in sorted(asyncio.all_tasks(), key=lambda each: each.get_name()):
        lines = [line for frame in task.get_stack() for line in traceback.format_stack(frame, 1)]
        parts.append(f"task {task.get_name()} ({_name_of(task)}):\n{''.join(lines)}")
    return "\n".join(parts)


def _name_of(task: "asyncio.Task[object]") -> str:
    return getattr(task.get_coro(), "__qualname__", "?")


def _folded(frame: FrameType | None) -> list[str]:
    found = []
    while frame is not None:
        found.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return found[::-1]


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text or DEFAULT_SECONDS)
    except ValueError:
        return None
    return seconds if 0 < seconds <= MOST_SECONDS else None
