"""`kubeproxy lab demo`: the nginx tutorial from nothing to a pod replaced under load, every claim measured.

Each row of the closing table is a client that ran inside the lab's namespaces, through the same door as `lab
exec`. A row that does not hold is shown with what was seen instead and makes the exit status 1; the lab is
removed in the end either way.
"""

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from kubeproxy.lab import addons, layout, show
from kubeproxy.lab.access import api_access
from kubeproxy.lab.launch import Launch, take_down_undisturbed
from kubeproxy.lab.state import Lab, LabError
from kubeproxy.store.base import StoreError
from kubeproxy.store.kube import KubeClient
from kubeproxy.store.resources import PODS, SERVICES

DEPLOYMENT = "nginx-deployment"
SERVICE = "nginx-service"
FULL_NAME = f"{SERVICE}.default.svc.{layout.DOMAIN}"
SPREAD_REQUESTS = 100
"""Enough that a replica which is served is missed once in 10^12 runs."""
LOAD_RATE = 25.0
"""Requests a second of each of the two clients while a pod is replaced."""
WAIT_SECONDS = 40.0
COMMAND_SECONDS = 20.0
POLL_SECONDS = 0.1


class Failed(Exception):
    """A claim did not hold; the text is what was seen."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the closing table."""

    step: str
    result: str
    seconds: float
    held: bool = True


class Tally(msgspec.Struct, frozen=True):
    """What `client` printed."""

    answered: int
    failed: int
    slowest: float
    pods: dict[str, int]
    errors: dict[str, int]


class Demo:
    """The tutorial on one lab that runs."""

    def __init__(self, lab: Lab, client: KubeClient, console: Console) -> None:
        self._lab = lab
        self._client = client
        self._console = console
        self._nodes = layout.node_names(lab.record.nodes)
        self._cluster_ip = ""
        self._port = 0
        self._node_port = 0
        self.rows: list[Row] = []

    async def run(self) -> None:
        """Take every step; those after the first only if there is something to ask."""
        if not await self._take("Deployment and Service applied, replicas ready", self._deploy):
            return
        await self._take("name resolved in a pod", self._resolve)
        for node in self._nodes:
            await self._take(f"cluster IP from a pod on {node}", partial(self._ask_by_name, _client_pod(node)))
        for node in self._nodes:
            await self._take(f"cluster IP from {node} itself", partial(self._ask_cluster_ip, node))
        for node in self._nodes:
            await self._take(f"node port on {node} from outside", partial(self._ask_node_port, node))
        await self._take("requests spread over all replicas", self._spread)
        await self._take("a pod deleted and replaced under load", self._replace_pod)

    async def _take(self, step: str, work: Callable[[], Awaitable[str]]) -> bool:
        began = time.monotonic()
        with self._console.status(step):
            try:
                result, held = await work(), True
            except (Failed, StoreError) as error:
                result, held = str(error), False
        row = Row(step=step, result=result, seconds=time.monotonic() - began, held=held)
        self.rows.append(row)
        mark = "[green]✓[/green]" if held else "[red]✗[/red]"
        self._console.print(f" {mark} {step} [dim]({row.seconds:.1f} s)[/dim]", highlight=False)
        return held

    async def _deploy(self) -> str:
        for manifest in ("nginx-deployment.yaml", "nginx-service.yaml"):
            await addons.apply(self._client, manifest)
        (pod,) = addons.documents("demo-client.yaml")
        for node in self._nodes:
            body = msgspec.json.decode(msgspec.json.encode(pod))
            body["metadata"]["name"] = _client_pod(node).removeprefix("pod/")
            body["spec"]["nodeName"] = node
            await addons.create(self._client, body)
        service = await self._client.get(SERVICES, "default", SERVICE)
        self._cluster_ip = service["spec"]["clusterIP"]
        self._port = service["spec"]["ports"][0]["port"]
        self._node_port = service["spec"]["ports"][0]["nodePort"]
        await self._until(lambda: self._running("app=demo-client", len(self._nodes)), "the client pods do not run")
        pods = await self._wait_for_replicas(())
        nodes = {pod["spec"]["nodeName"] for pod in pods}
        return (
            f"{len(pods)} pods on {len(nodes)} node{'s' if len(nodes) > 1 else ''}, cluster IP {self._cluster_ip}"
        )

    async def _resolve(self) -> str:
        pod = _client_pod(self._nodes[0])
        if shutil.which("dig"):
            tool, command = "dig", ["dig", "+short", "+time=2", "+tries=2", FULL_NAME]
        else:
            look = f"import socket; print(socket.gethostbyname({FULL_NAME!r}))"
            tool, command = "the C library", [sys.executable, "-c", look]
        answer = (await self._run(pod, command)).strip()
        if answer != self._cluster_ip:
            raise Failed(f"{tool}: {FULL_NAME} is {answer or 'nothing'}, not {self._cluster_ip}")
        return f"{tool}: {FULL_NAME} is {answer}"

    async def _ask_by_name(self, pod: str) -> str:
        tally = await self._requests(pod, SERVICE, self._port)
        return f"http://{SERVICE} answered by {next(iter(tally.pods))}"

    async def _ask_cluster_ip(self, target: str) -> str:
        tally = await self._requests(target, self._cluster_ip, self._port)
        return f"{self._cluster_ip}:{self._port} answered by {next(iter(tally.pods))}"

    async def _ask_node_port(self, node: str) -> str:
        address = layout.node_address(node)
        tally = await self._requests("outside", address, self._node_port)
        return f"{address}:{self._node_port} answered by {next(iter(tally.pods))}"

    async def _spread(self) -> str:
        tally = await self._requests(_client_pod(self._nodes[0]), self._cluster_ip, self._port, SPREAD_REQUESTS)
        wanted = {pod["metadata"]["name"] for pod in await self._replicas()}
        if set(tally.pods) != wanted:
            raise Failed(f"{len(tally.pods)} of {len(wanted)} replicas answered {SPREAD_REQUESTS} requests")
        return f"{SPREAD_REQUESTS} requests: {', '.join(str(count) for count in sorted(tally.pods.values()))}"

    async def _replace_pod(self) -> str:
        loads = (
            (_client_pod(self._nodes[-1]), self._cluster_ip, self._port),
            ("outside", layout.node_address(self._nodes[0]), self._node_port),
        )
        clients = [await self._start_load(*load) for load in loads]
        try:
            await asyncio.sleep(1.0)
            before = {pod["metadata"]["name"] for pod in await self._replicas()}
            victim = min(before)
            began = time.monotonic()
            await self._client.delete(PODS, "default", victim)
            after = await self._wait_for_replicas((victim,))
            replaced = time.monotonic() - began
            await asyncio.sleep(1.0)
            tallies = [await _finish_load(client) for client in clients]
        finally:
            for client in clients:
                await _end(client)
        (new,) = {pod["metadata"]["name"] for pod in after} - before
        answered = sum(tally.answered for tally in tallies)
        failed = sum(tally.failed for tally in tallies)
        slowest = max(tally.slowest for tally in tallies)
        if failed or not all(tally.answered for tally in tallies):
            errors = sorted({error for tally in tallies for error in tally.errors})
            raise Failed(f"{failed} of {answered + failed} requests failed: {'; '.join(errors) or 'no answer'}")
        return (
            f"{answered} requests, 0 failed, slowest {slowest * 1000:.0f} ms; "
            f"{victim[-5:]} replaced by {new[-5:]} in {replaced:.1f} s"
        )

    async def _wait_for_replicas(self, gone: tuple[str, ...]) -> list[dict[str, Any]]:
        """Wait until as many pods as the Deployment asks for are ready and none of ``gone`` is left."""
        (deployment,) = addons.documents("nginx-deployment.yaml")
        wanted = deployment["spec"]["replicas"]

        async def holds() -> bool:
            listing = await self._client.list(PODS, namespace="default", label_selector="app=nginx")
            pods = [msgspec.json.decode(item) for item in listing.items]
            return len(pods) == wanted and all(_is_ready(p) and p["metadata"]["name"] not in gone for p in pods)

        await self._until(holds, f"fewer than {wanted} replicas are ready")
        return await self._replicas()

    async def _replicas(self) -> list[dict[str, Any]]:
        listing = await self._client.list(PODS, namespace="default", label_selector="app=nginx")
        return [pod for pod in map(msgspec.json.decode, listing.items) if _is_ready(pod)]

    async def _running(self, selector: str, count: int) -> bool:
        listing = await self._client.list(PODS, namespace="default", label_selector=selector)
        return sum(_is_ready(msgspec.json.decode(item)) for item in listing.items) == count

    async def _until(self, holds: Callable[[], Awaitable[bool]], otherwise: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not await holds():
            if time.monotonic() > deadline:
                raise Failed(f"{otherwise} after {WAIT_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)

    async def _requests(self, target: str, host: str, port: int, count: int = 1) -> Tally:
        output = await self._run(target, [*_CLIENT, host, str(port), f"--requests={count}"])
        tally = msgspec.json.decode(output, type=Tally)
        if tally.failed:
            errors = "; ".join(sorted(tally.errors))
            raise Failed(f"{host}:{port}: {tally.failed} of {count} requests failed: {errors}")
        return tally

    async def _run(self, target: str, command: list[str]) -> str:
        """Run a command at a target and return what it printed. Raises Failed when it printed nothing."""
        process = await self._start(target, command, stdin=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                output, complaint = await process.communicate()
        except TimeoutError:
            raise Failed(f"{command[0]} in {target} did not end within {COMMAND_SECONDS:g} s") from None
        finally:
            await _end(process)
        if not output:
            raise Failed(f"{target}: {complaint.decode(errors='replace').strip() or 'no answer'}")
        return output.decode(errors="replace")

    async def _start_load(self, target: str, host: str, port: int) -> asyncio.subprocess.Process:
        command = [*_CLIENT, host, str(port), "--until-eof", f"--rate={LOAD_RATE}"]
        return await self._start(target, command, stdin=asyncio.subprocess.PIPE)

    async def _start(self, target: str, command: list[str], *, stdin: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kubeproxy", "lab", "exec", self._lab.record.name, target, "--", *command),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


_CLIENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py")))


def _client_pod(node: str) -> str:
    return f"pod/client-{node}"


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _finish_load(client: asyncio.subprocess.Process) -> Tally:
    assert client.stdin is not None
    client.stdin.close()  # That is how it is told to stop.
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            output, complaint = await client.communicate()
    except TimeoutError:
        raise Failed(f"the load client did not end within {COMMAND_SECONDS:g} s") from None
    if not output:
        raise Failed(f"the load client ended early: {complaint.decode(errors='replace').strip()}")
    return msgspec.json.decode(output, type=Tally)


def _closing_table(rows: list[Row], lab: list[tuple[str, float]], total: float) -> Table:
    table = Table("", "STEP", "RESULT", "SECONDS", title="kubeproxy lab demo", title_justify="left")
    table.columns[3].justify = "right"
    for step, seconds in lab:
        table.add_row("[green]✓[/green]", f"lab: {step}", "", f"{seconds:.1f}")
    table.add_section()
    for row in rows:
        mark = "[green]✓[/green]" if row.held else "[red]✗[/red]"
        table.add_row(mark, row.step, row.result, f"{row.seconds:.1f}")
    table.add_section()
    failed = sum(not row.held for row in rows)
    held = f"{failed} of {len(rows)} steps did not hold" if failed else "everything held"
    table.add_row("", "all", held, f"{total:.1f}")
    return table


async def _tutorial(lab: Lab, console: Console) -> list[Row]:
    async with KubeClient(api_access(lab.kubeconfig)) as client:
        demo = Demo(lab, client, console)
        await demo.run()
        return demo.rows


def run(name: str, *, nodes: int, mode: str, overlay: str, vm: str, retain: bool) -> int:
    """Make a lab, run the tutorial on it, remove it; return 0 only if every step held.

    With ``retain`` a lab on which a step did not hold stays up, to be looked into.
    """
    console = show.console()
    began = time.monotonic()
    kind = "nodes" if vm == layout.NO_VM else f"nodes ({vm} machines)"
    console.print(f'Creating lab "{name}": {nodes} {kind}, mode {mode}, overlay {overlay} ...', highlight=False)
    launch = Launch(name, nodes=nodes, mode=mode, overlay=overlay, vm=vm)
    failed = False
    try:
        steps = show.follow(console, launch.reports())
        if launch.warnings:
            raise LabError("a lab without some of its nodes cannot show the tutorial")
        rows = asyncio.run(_tutorial(launch.lab, console))
        total = time.monotonic() - began
        failed = not all(row.held for row in rows)
    finally:
        take_down_undisturbed()
        if failed and retain:
            launch.detach()
            console.print(f"The lab stays: `kubeproxy lab status {name}`, `kubeproxy lab down {name}`")
        else:
            launch.destroy()
    console.print(_closing_table(rows, steps, total))
    return 1 if failed else 0
