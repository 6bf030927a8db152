"""Asking a container how it is: the three actions a probe may have, over the network or inside the pod."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from kubeproxy.lab.containers import CannotStart
from kubeproxy.lab.podspec import ContainerSpec
from kubeproxy.lab.probes import Check, ExecAction, HttpGet, ProbeSpec, TcpSocket
from kubeproxy.model.addresses import host_port

MAX_BODY = 10 * 1024
"""Bytes of an answer that the kubelet reads before it hangs up (upstream: probe/http)."""

RunInside = Callable[[list[str], float], Awaitable[tuple[int, str]]]
"""Runs a command in the container, for so many seconds; returns exit code and output."""


def check_for(
    spec: ProbeSpec, container: ContainerSpec, *, address: str, session: aiohttp.ClientSession, run: RunInside
) -> Check | None:
    """Return the check that a probe asks for, or None when its action is unknown here."""
    if spec.http_get is not None:
        return _http(spec.http_get, spec.timeout_seconds, container, address, session)
    if spec.tcp_socket is not None:
        return _tcp(spec.tcp_socket, spec.timeout_seconds, container, address)
    if spec.exec is not None:
        return _exec(spec.exec, spec.timeout_seconds, run)
    return None


def _http(
    action: HttpGet, seconds: float, container: ContainerSpec, address: str, session: aiohttp.ClientSession
) -> Check:
    port = container.port_number(action.port)
    scheme = (action.scheme or "HTTP").lower()
    path = "/" + (action.path or "/").lstrip("/")
    url = f"{scheme}://{host_port(action.host or address, str(port))}{path}"
    headers = {each.name: each.value for each in action.http_headers or ()}
    headers.setdefault("User-Agent", "kube-probe/1.36")

    async def check() -> str:
        if port is None:
            return f"no container port is named {action.port!r}"
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with session.get(
                url, headers=headers, timeout=timeout, ssl=False, allow_redirects=False
            ) as answer:
                await answer.content.read(MAX_BODY)
        except TimeoutError:
            return f"Get {url!r}: no answer within {seconds:g} s"
        except (aiohttp.ClientError, ValueError, OSError) as error:
            return f"Get {url!r}: {error}"
        well = 200 <= answer.status < 400
        return "" if well else f"HTTP probe failed with statuscode: {answer.status}"

    return check


def _tcp(action: TcpSocket, seconds: float, container: ContainerSpec, address: str) -> Check:
    port = container.port_number(action.port)
    host = action.host or address

    async def check() -> str:
        if port is None:
            return f"no container port is named {action.port!r}"
        return await _connects(host, port, seconds)

    return check


async def _connects(host: str, port: int, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"dial tcp {host_port(host, port)}: no answer within {seconds:g} s"
    except (OSError, ValueError) as error:  # ValueError: the host is no name that could be looked up.
        return f"dial tcp {host_port(host, port)}: {error}"
    writer.close()
    return ""


def _exec(action: ExecAction, seconds: float, run: RunInside) -> Check:
    command = list(action.command)

    async def check() -> str:
        if not command:
            return "the probe names no command"
        try:
            code, output = await run(command, seconds)
        except TimeoutError:
            return f"command {command[0]!r} timed out after {seconds:g} s"
        except (OSError, CannotStart) as error:
            return f"command {command[0]!r} cannot be run: {error}"
        return "" if code == 0 else (output.strip() or f"command ended with status {code}")

    return check
