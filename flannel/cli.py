"""The `flanneld` command: parse, run, and turn what went wrong into one line and an exit status.

The only module that names the concrete subnet managers, kernel and clock.
"""

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager

from flannel.allocation import OutOfSubnets
from flannel.backends.base import BackendError
from flannel.config import Config, make_config
from flannel.daemon import Daemon
from flannel.flags import COMMAND_LINE
from flannel.kube_subnets import KubeSubnetManager, NoNode, find_node
from flannel.manager import LeaseLost, SubnetManager
from flannel.netconf import NetConfError
from flannel.subnets import StoreSubnetManager
from flannel.underlay import NoUnderlay
from kubeproxy import __version__, logs
from kubeproxy.access import find_access
from kubeproxy.clock import Clock, SystemClock
from kubeproxy.groups import leaves
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.interfaces import Rtnetlink
from kubeproxy.store.base import Unauthenticated
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.kubeconfig import KubeconfigError

log = logging.getLogger("flannel")

FATAL = (
    BackendError,
    KernelError,
    KubeconfigError,
    LeaseLost,
    NetConfError,
    NoNode,
    NoUnderlay,
    OSError,
    OutOfSubnets,
    Unauthenticated,
)


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
    status = 0
    try:
        await _until_signal(_run(config))
    except* FATAL as group:
        for error in leaves(group):
            log.error("%s", error)
        status = 1
    return status


async def _run(config: Config) -> None:
    async with _manager(config, SystemClock()) as manager:
        await Daemon(config, manager, Rtnetlink(), SystemExec(), SystemClock()).run()


@asynccontextmanager
async def _manager(config: Config, clock: Clock) -> AsyncIterator[SubnetManager]:
    if not config.kube_subnet_mgr:
        async with EtcdStore(config.etcd_endpoints, access=config.etcd_access) as store:
            yield StoreSubnetManager(
                store,
                prefix=config.etcd_prefix,
                clock=clock,
                chooser=random.Random(),
                renew_margin_seconds=config.renew_margin_seconds,
            )
        return
    access = await asyncio.to_thread(
        find_access, clock, kubeconfig=config.kubeconfig_file, master=config.kube_api_url
    )
    if access is None:
        raise KubeconfigError("-kube-subnet-mgr: outside of a pod it needs -kube-api-url or -kubeconfig-file")
    async with KubeClient(access) as client:
        yield KubeSubnetManager(
            client,
            node=await find_node(os.environ, client, clock),
            names=config.annotation_names,
            net_conf=config.net_config_path,
            set_network_available=config.set_node_network_unavailable,
            clock=clock,
        )


async def _until_signal(work: Coroutine[None, None, None]) -> None:
    running = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("stopped; the lease and the kernel's state stay")
