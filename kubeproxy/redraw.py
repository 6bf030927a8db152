"""`--watch`: the same again and again, until Ctrl-C. On a terminal each picture takes the last one's place."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from rich.console import Console
from rich.text import Text

from kubeproxy.clock import Clock

Draw = Callable[[Console], Awaitable[None]]
"""Prints one picture."""


async def redraw(draw: Draw, console: Console, clock: Clock, seconds: float) -> None:
    """Draw every so many seconds until cancelled; what ``draw`` raises comes through.

    On a terminal it is the alternate screen, which leaves at the end what was there before, however it ends.
    Elsewhere each picture follows the last one after an empty line.
    """
    if not console.is_terminal:
        while True:
            await draw(console)
            console.print()
            await clock.sleep(seconds)
    with console.screen() as screen:
        while True:
            with console.capture() as capture:
                await draw(console)
            screen.update(Text("\n").join(_fitting(capture.get(), console.height)))
            await clock.sleep(seconds)


async def until_signalled(work: Awaitable[None]) -> None:
    """Do work until it ends, or SIGINT, SIGTERM or SIGHUP ends it."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def _fitting(picture: str, height: int) -> list[Text]:
    """Return as many lines as there is room for, and how many there are beside them."""
    lines = [Text.from_ansi(line) for line in picture.splitlines()]
    if len(lines) <= height:
        return lines
    return [*lines[: height - 1], Text(f"... {len(lines) - height + 1} more lines", style="dim")]
