"""`kubeproxy` without a subcommand: the node agent, with an embedded store and API when no server is named."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kubeproxy import __version__, cleanup, logs
from kubeproxy.access import find_access
from kubeproxy.app import UnfitNode, run_agent
from kubeproxy.clock import SystemClock
from kubeproxy.config.encode import as_yaml
from kubeproxy.config.watch import ConfigurationChanged, watch
from kubeproxy.groups import leaves
from kubeproxy.kernel.conntrack_limits import ThisMachine
from kubeproxy.kernel.exec import PROGRAMS, KernelError, SystemExec
from kubeproxy.kernel.features import Features
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.sole import PROGRAMMING, alone
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.modes import choose
from kubeproxy.node_setup import set_oom_score_adj, set_up_node
from kubeproxy.options import Options, parse, without_a_node
from kubeproxy.store.base import StoreError
from kubeproxy.store.credentials import Access
from kubeproxy.store.kubeconfig import KubeconfigError

log = logging.getLogger(__name__)

ENDING_SECONDS = 10.0
"""How long programs that still write rules may take when the agent is to end: a kubelet kills after 30 s, systemd
after 90. What they do not commit in time is brought in by the next start."""


def main(argv: Sequence[str]) -> int:
    """Run the agent until SIGTERM or SIGINT, or until its configuration file changes; return the exit status.

    It ends when what a program is writing is in; after `ENDING_SECONDS` or a second signal it waits for none,
    but for a commit that the kernel is at: no signal reaches a program in there (iptables-legacy's replacement of
    a table). A signal that comes when it is ending already, because the file has changed, is the second.
    """
    options = parse(argv)
    if options.version:
        print(f"kubeproxy v{__version__}")
        return 0
    chosen = options.configuration.logging
    patterns: dict[str, int] = {}
    for each in chosen.vmodule:
        patterns.setdefault(each.file_pattern, each.verbosity)
    logs.configure(chosen.format, chosen.verbosity, patterns)
    for note in options.notes:
        log.warning("%s", note)
    failures: list[BaseException] = []
    try:
        return _carry_out(options)
    except* (KernelError, StoreError, OSError, KubeconfigError, ConfigurationChanged, UnfitNode) as group:
        failures = list(leaves(group))
    for failure in failures:
        print(f"Error: {failure}", file=sys.stderr)
    return 1


def _carry_out(options: Options) -> int:
    if options.write_config_to:
        Path(options.write_config_to).write_text(as_yaml(options.configuration))
        log.info("wrote the configuration to %s", options.write_config_to)
        return 0
    if options.cleanup:
        return cleanup.main([])
    servers = Ipvs()
    options = choose(options, Features(SystemExec(), servers))
    if options.init_only:
        set_up_node(options, ProcSysctls(), ThisMachine(), servers)
        log.info("the kernel's parameters are set; --init-only was given")
        return 0
    with alone(PROGRAMMING, "kubeproxy"):
        return _serve(options, servers)


def _serve(options: Options, servers: Ipvs) -> int:
    kubeconfig = options.configuration.client_connection.kubeconfig
    access = find_access(SystemClock(), kubeconfig=kubeconfig, master=options.master)
    # Nothing is changed on the node by a process that cannot start.
    set_up_node(options, ProcSysctls(), ThisMachine(), servers)
    set_oom_score_adj(options.configuration.oom_score_adj)
    if access is None:
        Path(options.data_dir).mkdir(parents=True, exist_ok=True)
    asyncio.run(_until_signalled(options, access))
    return 0


async def _until_signalled(options: Options, access: Access | None) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    is_asked = False

    def end() -> None:
        nonlocal is_asked
        if is_asked or not task.cancel():  # only threads are left of it
            _end_programs()
        is_asked = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        async with asyncio.TaskGroup() as tasks:
            if options.config_file:
                tasks.create_task(watch(Path(options.config_file), options.config_digest, SystemClock()))
            tasks.create_task(_run(options, access))
    except asyncio.CancelledError:
        log.info("ending; what is in the kernel stays there")
    finally:
        # The loop runs on until the threads have ended; what they wait for is programs.
        loop.call_later(ENDING_SECONDS, _end_programs)


def _end_programs() -> None:
    for program in PROGRAMS.end():
        log.warning("%s did not end in time and was killed; the next start brings in what it did not", program)


async def _run(options: Options, access: Access | None) -> None:
    if access is not None:
        await run_agent(options, access)
        return
    from kubeproxy.apiserver.embedded import serve_embedded

    store = Path(options.data_dir) / "store.db"
    ranges = (options.service_range, options.node_port_range)
    async with serve_embedded(store, options.api_address, *ranges) as server:
        log.info("embedded store %s, API at %s", store, server)
        await run_agent(without_a_node(options), Access(server=server))
