"""The `flanneld` command: parse, run, and turn what went wrong into one line and an exit status."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from flannel.allocation import OutOfSubnets
from flannel.backends.base import BackendError
from flannel.config import Config, make_config
from flannel.daemon import Daemon
from flannel.flags import COMMAND_LINE
from flannel.netconf import NetConfError
from flannel.subnets import LeaseLost
from flannel.underlay import NoUnderlay
from kubeproxy import __version__, logs
from kubeproxy.clock import SystemClock
from kubeproxy.groups import leaves
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.interfaces import Rtnetlink
from kubeproxy.store.etcd import EtcdStore

log = logging.getLogger("flannel")

FATAL = (BackendError, KernelError, LeaseLost, NetConfError, NoUnderlay, OSError, OutOfSubnets)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flanneld ARGV` and return its exit status: 0 after a signal, 1 for a failure, 2 for bad usage."""
    arguments = sys.argv[1:] if argv is None else argv
    config = COMMAND_LINE.parse_or_exit(arguments, make_config, os.environ)
    if config.version:
        print(f"flanneld {__version__}", file=sys.stderr)
        return 0
    logs.configure(verbosity=config.verbosity)
    return asyncio.run(_serve(config))


async def _serve(config: Config) -> int:
    store = EtcdStore(config.etcd_endpoints)
    status = 0
    try:
        await _until_signal(Daemon(config, store, Rtnetlink(), SystemExec(), SystemClock()))
    except* FATAL as group:
        for error in leaves(group):
            log.error("%s", error)
        status = 1
    finally:
        await store.close()
    return status


async def _until_signal(daemon: Daemon) -> None:
    running = asyncio.create_task(daemon.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("stopped; the lease and the kernel's state stay")
