"""`kubeproxy` without a subcommand: the node agent, with an embedded store and API when no server is named."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kubeproxy import __version__, cleanup, logs
from kubeproxy.access import find_access
from kubeproxy.app import run_agent
from kubeproxy.clock import SystemClock
from kubeproxy.groups import leaves
from kubeproxy.kernel.exec import KernelError
from kubeproxy.options import Options, parse
from kubeproxy.store.base import StoreError
from kubeproxy.store.credentials import Access
from kubeproxy.store.kubeconfig import KubeconfigError

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the agent until SIGTERM or SIGINT; return the exit status."""
    options = parse(argv)
    if options.version:
        print(f"kubeproxy v{__version__}")
        return 0
    logs.configure(options.logging_format, options.verbosity)
    if options.cleanup:
        return cleanup.main([])
    failures: list[BaseException] = []
    try:
        access = find_access(SystemClock(), kubeconfig=options.kubeconfig, master=options.master)
        if access is None:
            Path(options.data_dir).mkdir(parents=True, exist_ok=True)
        asyncio.run(_until_signalled(options, access))
    except* (KernelError, StoreError, OSError, KubeconfigError) as group:
        failures = list(leaves(group))
    for failure in failures:
        print(f"Error: {failure}", file=sys.stderr)
    return 1 if failures else 0


async def _until_signalled(options: Options, access: Access | None) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await _run(options, access)
    except asyncio.CancelledError:
        log.info("ending; what is in the kernel stays there")


async def _run(options: Options, access: Access | None) -> None:
    if access is not None:
        await run_agent(options, access)
        return
    from kubeproxy.apiserver.embedded import serve_embedded

    store = Path(options.data_dir) / "store.db"
    ranges = (options.service_range, options.node_port_range)
    async with serve_embedded(store, options.api_address, *ranges) as server:
        log.info("embedded store %s, API at %s", store, server)
        await run_agent(options, Access(server=server))
