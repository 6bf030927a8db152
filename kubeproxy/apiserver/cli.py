"""`kubeproxy apiserver`: parse, serve until SIGTERM, say in one line why not."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from kubeproxy import logs
from kubeproxy.apiserver.allocate import parse_ranges
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from kubeproxy.flags import CommandLine, Flag, FlagError, comma_list, integer
from kubeproxy.model.addresses import canonical_ip
from kubeproxy.store.base import StoreError

log = logging.getLogger(__name__)

FLAGS = [
    Flag("store", str, "", "Where objects are kept: sqlite:PATH, or the URLs of an etcd cluster"),
    Flag("bind-address", str, "127.0.0.1", "Address that the API answers on"),
    Flag("port", integer, 8001, "Port that the API answers on (0: any free one)"),
    Flag("advertise-address", str, "", "Address under which pods find this server, for the kubernetes Service"),
    Flag("listen-fd", comma_list, (), "Inherited listening sockets to answer on too"),
    Flag("listen-client-urls", comma_list, (), "Where etcd's JSON gateway on the same store answers"),
    Flag("service-cluster-ip-range", str, "10.96.0.0/12", "Cluster IPs to hand out; one CIDR per IP family"),
    Flag("service-node-port-range", str, "30000-32767", "Node ports to hand out"),
    Flag("logging-format", str, "text", "text or json"),
    Flag("v", integer, 0, "Log verbosity; 4 and more shows debug lines"),
]


def _settings(values: dict[str, Any]) -> Settings:
    if not values["store"]:
        raise FlagError("--store is required: sqlite:PATH or http://HOST:PORT")
    if canonical_ip(values["bind-address"]) is None:
        raise FlagError(f"bind-address {values['bind-address']!r} is no IP address")
    if not 0 <= values["port"] <= 65535:
        raise FlagError(f"port {values['port']} is not within 0-65535")
    if not all(text.isdigit() for text in values["listen-fd"]):
        raise FlagError("listen-fd must be the number of an inherited socket")
    try:
        ranges = parse_ranges(values["service-cluster-ip-range"], values["service-node-port-range"])
    except ValueError as error:
        raise FlagError(str(error)) from None
    return Settings(
        store=values["store"],
        ranges=ranges,
        bind_address=values["bind-address"],
        port=values["port"],
        advertise_address=_advertised(values["advertise-address"], values["bind-address"]),
        listen_fds=tuple(int(text) for text in values["listen-fd"]),
        client_urls=values["listen-client-urls"],
    )


def _advertised(text: str, bind_address: str) -> str:
    """The bind address serves when nothing is said, unless pods cannot reach it."""
    address = ip_address(canonical_ip(text or bind_address) or "0.0.0.0")
    if text and canonical_ip(text) is None:
        raise FlagError(f"advertise-address {text!r} is no IP address")
    unreachable = address.is_unspecified or address.is_loopback
    if text and unreachable:
        raise FlagError(f"advertise-address {text!r} cannot be reached from pods")
    return "" if unreachable else str(address)


async def _until_signalled(settings: Settings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with running(settings, SystemClock()) as url:
        log.info("API at %s, store %s", url, settings.store)
        await ended.wait()
        log.info("ending")


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    command = CommandLine("kubeproxy apiserver", "Serve the Kubernetes API over a store.", FLAGS)
    values: dict[str, Any] = {}

    def check(parsed: dict[str, Any]) -> Settings:
        values.update(parsed)
        return _settings(parsed)

    settings = command.parse_or_exit(argv, check)
    logs.configure(values["logging-format"], values["v"])
    try:
        asyncio.run(_until_signalled(settings))
    except (OSError, StoreError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0
