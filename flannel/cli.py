"""The `flanneld` command: parse, run, and turn what went wrong into one line and an exit status."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from flannel.allocation import OutOfSubnets
from flannel.backends.base import BackendError
from flannel.config import Config, make_config
from flannel.daemon import Daemon
from flannel.flags import FlagError, HelpWanted, parse_flags, usage
from flannel.netconf import NetConfError
from flannel.subnets import LeaseLost
from flannel.underlay import NoUnderlay
from kubeproxy import __version__
from kubeproxy.clock import SystemClock
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.interfaces import Rtnetlink
from kubeproxy.store.etcd import EtcdStore

log = logging.getLogger("flannel")

FATAL = (BackendError, KernelError, LeaseLost, NetConfError, NoUnderlay, OSError, OutOfSubnets)
DEBUG_VERBOSITY = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flanneld ARGV` and return its exit status: 0 after a signal, 1 for a failure, 2 for bad usage."""
    try:
        flags = parse_flags(sys.argv[1:] if argv is None else argv, os.environ)
        if flags["version"]:
            print(f"flanneld {__version__}", file=sys.stderr)
            return 0
        config = make_config(flags)
    except HelpWanted:
        print(usage(), file=sys.stderr)
        return 0
    except FlagError as error:
        print(f"{error}\n{usage()}", file=sys.stderr)
        return 2
    _log_to_stderr(config.verbosity)
    return asyncio.run(_serve(config))


def _log_to_stderr(verbosity: int) -> None:
    level = logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("asyncio", "aiohttp", "pyroute2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


async def _serve(config: Config) -> int:
    store = EtcdStore(config.etcd_endpoints)
    status = 0
    try:
        await _until_signal(Daemon(config, store, Rtnetlink(), SystemExec(), SystemClock()))
    except* FATAL as group:
        for error in _leaves(group):
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


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
