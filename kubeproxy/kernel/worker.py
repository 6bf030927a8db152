"""Python processes of our own beside the event loop, for work that would starve it.

A worker is a module of this installation run by the same interpreter. It is spoken to over one socket, and
ends when that socket does: a parent that was killed leaves none behind.
"""

import asyncio
import socket
import sys
from collections.abc import Sequence

CONTROL_DESCRIPTOR_ARGUMENT = "--control"


class Worker:
    """A running worker: ``reader`` and ``writer`` are the parent's end of its control socket."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer

    async def end(self) -> int:
        """Close the control socket, end the process if it still runs, and return its status."""
        self.writer.close()
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


async def start_worker(module: str, arguments: Sequence[str]) -> Worker:
    """Run ``python -m MODULE --control N ARGUMENTS`` where N is the descriptor of its control socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        control = (CONTROL_DESCRIPTOR_ARGUMENT, str(theirs.fileno()))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *control, *arguments, pass_fds=(theirs.fileno(),)
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return Worker(process, reader, writer)
