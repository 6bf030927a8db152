"""Runs a lab's programs: builds the network, starts them in order, restarts what dies, says what is going on.

    python -m kubeproxy.lab.supervisor --control-fd N --listen-fd M          (by `init`, inside the namespaces)

Order: network, API server (it holds the store), flannel's configuration, every node's programs at once, and the
cluster's DNS when there are nodes. Progress goes to the creator as steps; the state of every program is kept in
status.json. The API server's listening socket on the host was made before the namespaces, lives here, and is
handed to each API server that is started, so clients on the host meet a short wait and no refusal.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import kubeproxy
from kubeproxy import logs
from kubeproxy.clock import Clock, SystemClock
from kubeproxy.groups import leaves
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.lab import addons, checks, identities, layout, modecheck, network, programs, state
from kubeproxy.lab.access import api_access
from kubeproxy.lab.init import Report, send, tail
from kubeproxy.lab.processes import Keeper, Spec
from kubeproxy.lab.starting import Guests, Namespaces, Starter, log_file
from kubeproxy.store.base import StoreError, Unavailable, put
from kubeproxy.store.etcd import EtcdStore
from kubeproxy.store.kube import KubeClient

log = logging.getLogger(__name__)

READY_SECONDS = 60.0
READY_SECONDS_OF_MACHINES = 150.0
"""Where nodes are virtual machines: each has one processor, and that is several times slower."""
GIVEN_UP_FAILURES = 2
"""After so many boots in a row that failed, a machine is not waited for. It goes on being tried."""
POLL_SECONDS = 0.05


class NotReady(Exception):
    """A step did not come to its end in time."""


class Supervisor:
    """One lab's programs."""

    def __init__(self, record: state.Record, control: socket.socket, listen_fd: int, clock: Clock) -> None:
        self._record = record
        self._control = control
        self._listen_fd = listen_fd
        self._clock = clock
        self._nodes = layout.node_names(record.nodes)
        self._starter: Starter = Namespaces() if record.vm == layout.NO_VM else Guests(self._nodes)
        self._patience = READY_SECONDS if record.vm == layout.NO_VM else READY_SECONDS_OF_MACHINES
        self._keepers: list[Keeper] = []
        self._ready = False

    async def run(self) -> None:
        """Bring everything up, then keep it up until cancelled."""
        began = self._clock.now()
        async with self._step("network"):
            await asyncio.to_thread(network.build, SystemExec(), self._nodes, self._record.vm)
            for machine in network.machines(self._nodes):
                write_machine_files(machine, self._nodes)
            if self._record.vm == layout.NO_VM:
                await asyncio.to_thread(modecheck.require, self._record.mode)
        admin = api_access(layout.admin_kubeconfig())
        async with asyncio.TaskGroup() as tasks, KubeClient(admin) as client:
            for spec in self._starter.machines():
                self._keep(tasks, spec)
            async with self._step("API server and store"):
                self._keep(tasks, programs.apiserver(self._listen_fd))
                await self._until(lambda: _answers(layout.CONTROL, layout.API_PORT))
            if self._starter.machines():
                await self._machines_booted()
            async with self._step("overlay: a subnet leased to each node"):
                await self._configure_overlay()
                access = identities.overlay_access()
                for spec in (*programs.of_nodes(self._nodes, self._record.mode, access), programs.controllers()):
                    self._keep(tasks, spec)
                await self._until(self._subnets_leased)
            async with self._step("nodes ready"):
                await self._until(lambda: _counts(addons.ready_nodes(client), len(self._up())))
            async with self._step("cluster DNS"):
                # Not before the nodes are there: its two pods would both go to the first of them.
                await self._until(lambda: _done(addons.apply(client, "coredns.yaml")))
                await self._until(lambda: _counts(addons.ready_replicas(client, "kube-system", "coredns"), 2))
            self._ready = True
            self._write_status()
            send(self._control, Report(ready=True, seconds=self._clock.now() - began))

    def _keep(self, tasks: asyncio.TaskGroup, spec: Spec) -> None:
        keeper = Keeper(spec, self._starter.start, self._clock, self._write_status)
        self._keepers.append(keeper)
        tasks.create_task(keeper.run(), name=spec.name)

    async def _configure_overlay(self) -> None:
        store = EtcdStore([layout.STORE_URL], access=identities.overlay_access())
        key = f"{identities.OVERLAY_KEYS}/config".encode()
        try:
            await self._until(
                lambda: _done(put(store, key, programs.overlay_config(self._record.overlay).encode()))
            )
        finally:
            await store.close()

    async def _subnets_leased(self) -> bool:
        return all((layout.node_directory(node) / "subnet.env").exists() for node in self._up())

    def _up(self) -> list[str]:
        """Return the nodes that are worth waiting for: a machine that fails must not hold the others up."""
        return [node for node in self._nodes if self._starter.is_up(node)]

    async def _machines_booted(self) -> None:
        """Wait for the machines. Raises NotReady when none comes up; tells of those that do not."""
        async with self._step("machines booted"):
            await self._until(self._booted)
            self._tell_failed()

    async def _booted(self) -> bool:
        """Say whether every machine has come up, or has failed to more than once."""
        return all(
            self._starter.is_up(keeper.spec.machine) or keeper.failures >= GIVEN_UP_FAILURES
            for keeper in self._keepers
            if keeper.spec in self._starter.machines()
        )

    def _tell_failed(self) -> None:
        """Report machines that did not come up. Raises NotReady when there is no other."""
        for keeper in self._keepers:
            if keeper.spec in self._starter.machines() and not self._starter.is_up(keeper.spec.machine):
                words = self._starter.last_words(keeper.spec)
                send(self._control, Report(warning=_down(keeper, words)))
        if not self._up():
            raise NotReady

    @contextlib.asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[None]:
        began = self._clock.now()
        send(self._control, Report(step=name))
        try:
            yield
        except NotReady:
            raise NotReady(f'"{name}" was not reached within {self._patience:g} s; {self._complaints()}') from None
        send(self._control, Report(step=name, seconds=self._clock.now() - began))

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until ``holds``; a store that does not answer yet is a reason to wait."""
        deadline = self._clock.now() + self._patience
        while self._clock.now() < deadline:
            try:
                if await holds():
                    return
            except Unavailable as error:
                log.debug("waiting: %s", error)
            await self._clock.sleep(POLL_SECONDS)
        raise NotReady

    def _complaints(self) -> str:
        """Return the last line that each program which died has written."""
        lines = []
        for keeper in self._keepers:
            if not keeper.failures:
                continue  # It runs, or waits for the machine that it runs on.
            if words := self._starter.last_words(keeper.spec):
                lines.append(_down(keeper, words))
                continue
            text = tail(log_file(keeper.spec.name)).strip()
            last = text.splitlines()[-1] if text else "it wrote nothing"
            lines.append(f"{keeper.spec.name} keeps dying: {last}")
        return "; ".join(lines) or "its programs run; --retain keeps their logs"

    def _write_status(self) -> None:
        rows = tuple(
            state.Program(
                name=keeper.spec.name,
                machine=keeper.spec.machine,
                pid=keeper.pid,
                restarts=keeper.restarts,
                state=keeper.state,
                last_words=() if keeper.pid or not keeper.failures else self._starter.last_words(keeper.spec),
            )
            for keeper in self._keepers
        )
        state.write(layout.INSIDE / state.STATUS, state.Status(ready=self._ready, programs=rows))


def _down(keeper: Keeper, last_words: Sequence[str]) -> str:
    """Say that a machine is down, with what its console says last."""
    return "\n  | ".join((f"{keeper.spec.machine} is down: {keeper.state}", *last_words))


async def _done(work: Awaitable[object]) -> bool:
    await work
    return True


async def _counts(count: Awaitable[int], wanted: int) -> bool:
    return await count >= wanted


async def _answers(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True


def write_machine_files(machine: str, nodes: Sequence[str]) -> None:
    """Write a machine's /etc files: it knows the other machines by name; no resolver answers on the LAN."""
    directory = layout.node_directory(machine)
    directory.mkdir(parents=True)
    names = [f"{layout.machine_address(name)} {name}\n" for name in network.machines(nodes)]
    (directory / "hosts").write_text("127.0.0.1 localhost\n" + "".join(names))
    (directory / "resolv.conf").write_text(f"nameserver {layout.GATEWAY}\n")


def environment() -> None:
    """Have every program of the lab, and every pod's, find this installation first."""
    os.environ["PATH"] = checks.search_path()
    os.environ["PYTHONPATH"] = str(Path(kubeproxy.__file__).parent.parent)
    os.chdir("/")


def main(argv: Sequence[str]) -> int:
    """Run until killed; a lab that does not come up says why on the control socket."""
    parser = argparse.ArgumentParser(prog="kubeproxy.lab.supervisor", allow_abbrev=False)
    parser.add_argument("--control-fd", required=True, type=int)
    parser.add_argument("--listen-fd", required=True, type=int)
    given = parser.parse_args(argv)
    logs.configure()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(given.control_fd, False)
    control = socket.socket(fileno=given.control_fd)
    environment()
    lab = state.read(layout.INSIDE)
    assert lab is not None
    try:
        asyncio.run(Supervisor(lab.record, control, given.listen_fd, SystemClock()).run())
    except* (NotReady, StoreError, KernelError, OSError) as group:
        message = "; ".join(str(error) for error in leaves(group))
        log.error("the lab did not come up: %s", message)
        send(control, Report(error=message))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
