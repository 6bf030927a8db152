"""Running somebody else's credential program: bounded in time and output, killed with all of its children.

Unlike `exec.py` it does not block: the client that needs the credentials lives on the event loop.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from kubeproxy.kernel.exec import CommandFailed, CommandMissing

OUTPUT_LIMIT = 1 << 20
"""Bytes that a program may print; credentials are a few kilobytes."""


class _Watch(asyncio.SubprocessProtocol):
    """Collects what a program prints; ``ended`` is over when it and whoever holds its pipes are gone."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.printed = {1: bytearray(), 2: bytearray()}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.printed[fd] += data
        if len(self.printed[fd]) > OUTPUT_LIMIT and not self.ended.done():
            self.ended.set_exception(ValueError(f"printed more than {OUTPUT_LIMIT >> 20} MiB"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def run_plugin(argv: Sequence[str], variables: Mapping[str, str], seconds: float) -> bytes:
    """Run ``argv`` (no shell, no stdin) with ``variables`` on top of our environment; return its stdout.

    Raises CommandMissing when there is no such program, CommandFailed when it ends with a status other than 0,
    prints too much, or takes longer than ``seconds``.
    """
    loop = asyncio.get_running_loop()
    environment = {**os.environ, **variables}
    try:
        transport, watch = await loop.subprocess_exec(
            _Watch, *argv, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    except FileNotFoundError:
        raise CommandMissing(f"executable {argv[0]} not found") from None
    except (OSError, ValueError) as error:
        raise CommandFailed(argv[:1], -1, f"cannot be started: {error}") from None
    try:
        await asyncio.wait_for(watch.ended, seconds)
    except (TimeoutError, ValueError) as error:
        why = str(error) or f"did not end within {seconds:g} s"
        raise CommandFailed(argv[:1], -1, why) from None
    finally:
        if not watch.ended.done() or watch.ended.cancelled() or watch.ended.exception():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(transport.get_pid(), signal.SIGKILL)  # with its children, which may hold the pipes
        transport.close()
    status = transport.get_returncode()
    if status:
        raise CommandFailed(argv[:1], status, watch.printed[2].decode(errors="replace"))
    return bytes(watch.printed[1])
