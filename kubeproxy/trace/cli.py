"""`kubeproxy trace SRC DST[:PORT][/PROTO]`, `kubeproxy trace service/NAME[.NS]`: asks the agent on this node."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import aiohttp
import msgspec
from rich.console import Console

from kubeproxy.access import find_access
from kubeproxy.clock import SystemClock
from kubeproxy.config.types import METRICS_PORT
from kubeproxy.flags import CommandLine, Flag, FlagError, boolean
from kubeproxy.health.http import WHERE_TO_LOOK, AddressError, parse_address
from kubeproxy.kernel.conntrack import KernelConntrack
from kubeproxy.kernel.exec import PROGRAMS, KernelError, SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family, family_of, host_port
from kubeproxy.model.objects import Record
from kubeproxy.options import API_PORT
from kubeproxy.store.base import StoreError
from kubeproxy.store.credentials import Access
from kubeproxy.store.kubeconfig import KubeconfigError
from kubeproxy.store.trouble import in_words
from kubeproxy.trace.answer import Answer, Candidate, ServiceAnswer
from kubeproxy.trace.compare import compare
from kubeproxy.trace.diagnose import findings
from kubeproxy.trace.ends import FORMS, End, EndError, Kind, parse_end
from kubeproxy.trace.facts import read_facts
from kubeproxy.trace.live import observe
from kubeproxy.trace.report import show_packet, show_service
from kubeproxy.trace.resolve import Resolver

T = TypeVar("T", Answer, ServiceAnswer)

COMMAND_LINE = CommandLine(
    "kubeproxy trace",
    "Say what becomes of a packet on this node, step by step and why; or list everything that is programmed for a "
    f"Service (kubeproxy trace service/NAME). SRC and DST are {FORMS}; a Service's port may be left out.",
    [
        Flag("from", str, "", "Where the packet comes from: pod/NAME[.NS], node or outside; else SRC tells"),
        Flag("live", boolean, False, "Send one such packet and compare what the kernel does with it; as root"),
        Flag("output", str, "text", "text or json", "o"),
        Flag("metrics-address", str, f"127.0.0.1:{METRICS_PORT}", "Where the agent's --metrics-bind-address is"),
        Flag("kubeconfig", str, "", "Path of the kubeconfig by which pods and nodes are looked up"),
        Flag("master", str, "", "URL of the API server; with neither, as the agent, else its embedded API"),
    ],
    arguments="SRC DST[:PORT][/PROTOCOL] | service/NAME[.NS]",
)


class Failed(Exception):
    """The command cannot answer; the text says why."""


class Request(Record, frozen=True, kw_only=True):
    """What the command line asks for."""

    source: End | None
    """None: everything about the Service that ``destination`` is."""
    destination: End
    comes_from: str
    live: bool
    output: str
    agent: tuple[str, int]
    kubeconfig: str
    master: str


def main(argv: Sequence[str]) -> int:
    """Print an answer; return 0 when the packet arrives, 3 when it does not, 1 when there is no answer."""
    request = COMMAND_LINE.parse_or_exit(argv, check=_request)
    try:
        return asyncio.run(_run(request, Console(soft_wrap=False)))
    except asyncio.CancelledError:
        return 1
    except (Failed, EndError, KubeconfigError, StoreError, KernelError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _request(values: dict[str, Any]) -> Request:
    words = values["arguments"]
    try:
        if len(words) == 1:
            source, destination = None, parse_end(words[0], ported=False)
            if destination.kind is not Kind.SERVICE:
                raise FlagError("name SRC and DST, or service/NAME")
        elif len(words) == 2:
            source, destination = parse_end(words[0], ported=False), parse_end(words[1], ported=True)
        else:
            raise FlagError("name SRC and DST, or service/NAME")
        comes_from = values["from"]
        if comes_from not in ("", "node", "outside"):
            end = parse_end(comes_from, ported=False)
            if end.kind is not Kind.POD:
                raise FlagError(f'invalid argument "{comes_from}" for "--from" flag: pod/NAME, node or outside')
            comes_from = f"pod/{end.name}.{end.namespace}"
        agent = parse_address(values["metrics-address"], METRICS_PORT)
    except (EndError, AddressError) as error:
        raise FlagError(str(error)) from None
    if values["output"] not in ("text", "json"):
        raise FlagError(f'invalid argument "{values["output"]}" for "--output" flag: text or json')
    return Request(
        source=source,
        destination=destination,
        comes_from=comes_from,
        live=values["live"],
        output=values["output"],
        agent=agent,
        kubeconfig=values["kubeconfig"],
        master=values["master"],
    )


async def _run(request: Request, console: Console) -> int:
    task = asyncio.current_task()
    assert task is not None

    def end(number: int) -> None:
        # What --live set up is removed by its thread, which is waited for.
        task.cancel()
        if number != signal.SIGTERM:  # a terminal sends it to everybody in the foreground
            PROGRAMS.signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    if request.source is None:
        whole = await _ask(request, {"service": _key(request.destination)}, ServiceAnswer)
        pods = await _pods(request, whole.service)
        ports = tuple(
            msgspec.structs.replace(port, inside=_with(pods, port.inside), outside=_with(pods, port.outside))
            for port in whole.ports
        )
        whole = msgspec.structs.replace(whole, ports=ports)
        if request.output == "json":
            _print_json(whole)
        else:
            show_service(whole, console)
        return 0 if whole.known else 1
    answer = await _packet(request, request.source)
    if answer.endpoints:
        pods = await _pods(request, answer.service)
        answer = msgspec.structs.replace(answer, endpoints=_with(pods, answer.endpoints))
    answer = await asyncio.to_thread(_examined, answer, request.live)
    if request.output == "json":
        _print_json(answer)
    else:
        show_packet(answer, console)
    differs = answer.live is not None and answer.live.differences
    return 0 if answer.outcome in ("FORWARD", "NOT OURS") and not differs else 3


def _examined(answer: Answer, live: bool) -> Answer:
    """Put in what the node itself shows."""
    family = family_of(answer.packet.destination)
    # A node whose own rules are in nftables' tables may have other people's in iptables.
    flavour = Flavour(answer.flavour) if answer.flavour in tuple(Flavour) else Flavour.NFT
    tables = Iptables(SystemExec(), family, flavour)
    sysctls, conntrack = ProcSysctls(), KernelConntrack(family)
    found = findings(answer, read_facts(answer, tables, sysctls, conntrack))
    compared = None
    if live:
        compared = compare(answer, observe(answer, tables, sysctls, conntrack))
    return msgspec.structs.replace(answer, findings=found, live=compared)


async def _packet(request: Request, source: End) -> Answer:
    """Ask in the family that an address names, else in IPv4, and in IPv6 where there is no IPv4."""
    named = [end.name for end in (source, request.destination) if end.kind is Kind.ADDRESS]
    families = (family_of(named[0]),) if named else tuple(Family)
    failures: list[Exception] = []
    for family in families:
        try:
            return await _packet_in(request, source, family)
        except (Failed, EndError) as error:
            failures.append(error)
    raise failures[0]


async def _packet_in(request: Request, source: End, family: Family) -> Answer:
    resolver = Resolver(_access(request), family)
    destination = request.destination
    query = {"family": str(family.value), "port": destination.port}
    if destination.kind is Kind.SERVICE:
        query["service"] = _key(destination)
        towards = ""
    else:
        towards = query["destination"] = await resolver.destination(destination)
    if destination.protocol is not None:
        query["protocol"] = destination.protocol
    sender = await resolver.source(source, request.comes_from, towards)
    query |= {"source": sender.address, "origin": sender.origin or "", "interface": sender.interface}
    return await _ask(request, query, Answer)


async def _pods(request: Request, service: str) -> dict[str, str]:
    namespace, _, name = service.partition("/")
    return await Resolver(_access(request), Family.V4).pods_of(namespace, name.partition(":")[0])


def _with(pods: dict[str, str], endpoints: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Put in the pods' names; an endpoint is `ip:port`, `[ip]:port` or a bare address."""

    def address(text: str) -> str:
        return text if text in pods else text.rpartition(":")[0].strip("[]")

    return tuple(msgspec.structs.replace(each, pod=pods.get(address(each.endpoint), "")) for each in endpoints)


def _key(end: End) -> str:
    return f"{end.namespace}/{end.name}"


def _access(request: Request) -> Access:
    kubeconfig = request.kubeconfig or ("" if request.master else os.environ.get("KUBECONFIG", ""))
    found = find_access(SystemClock(), kubeconfig=kubeconfig, master=request.master)
    return found or Access(server=f"http://127.0.0.1:{API_PORT}")


async def _ask(request: Request, query: dict[str, str], kind: type[T]) -> T:
    host, port = request.agent
    where = host_port(host, port)
    given = {name: value for name, value in query.items() if value}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            async with session.get(f"http://{where}/trace", params=given) as response:
                body = await response.read()
                if response.status in (400, 503):
                    raise Failed(msgspec.json.decode(body, type=_Refusal).error)
                response.raise_for_status()
                return msgspec.json.decode(body, type=kind)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Failed(f"no agent answers at {where}: {in_words(error)}. {WHERE_TO_LOOK}") from None
    except msgspec.DecodeError as error:
        raise Failed(f"no agent answers at {where}: something else does ({error})") from None


class _Refusal(Record, frozen=True):
    error: str


def _print_json(value: Answer | ServiceAnswer) -> None:
    print(msgspec.json.format(msgspec.json.encode(value)).decode())
