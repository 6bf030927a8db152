"""The node agent's command line: kube-proxy's flags, and the few that only the embedded store needs.

Every row works; a flag of kube-proxy's that is not built yet is refused as unknown rather than accepted
and ignored, so that nobody believes in a setting that does nothing.
"""

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from kubeproxy.apiserver.allocate import parse_ranges
from kubeproxy.flags import CommandLine, Flag, FlagError, boolean, comma_list, duration, integer
from kubeproxy.health.http import AddressError, parse_address
from kubeproxy.model.addresses import canonical_cidr, canonical_ip
from kubeproxy.model.objects import Record
from kubeproxy.store.kubeconfig import is_server_url

MODES = ("auto", "iptables")
"""What --mode takes now; ipvs and nftables come with their own backends."""

HEALTHZ_PORT = 10256
METRICS_PORT = 10249
API_PORT = 8001

FLAGS = [
    Flag("mode", str, "auto", f"How Services reach the kernel: {', '.join(MODES)}", "proxy-mode"),
    Flag("kubeconfig", str, "", "Path of the kubeconfig file, or several with colons between, as in KUBECONFIG"),
    Flag(
        "master",
        str,
        "",
        "URL of the API server (overrides any value in kubeconfig); with neither, the cluster that we run in, "
        "or else an embedded store and API",
    ),
    Flag("hostname-override", str, "", "Name of this node, when it is not the host's name"),
    Flag("cluster-cidr", comma_list, (), "CIDR of the pods; traffic to cluster IPs from elsewhere is masqueraded"),
    Flag("masquerade-all", boolean, False, "Masquerade all traffic to cluster IPs"),
    Flag("iptables-masquerade-bit", integer, 14, "Bit of the packet mark that asks for masquerading (0 to 31)"),
    Flag("iptables-localhost-nodeports", boolean, True, "Answer node ports on 127.0.0.1 too"),
    Flag(
        "iptables-sync-period",
        duration,
        30.0,
        "How long until a failed sync is tried again",
    ),
    Flag("iptables-min-sync-period", duration, 0.0, "Shortest time between two syncs, seconds"),
    Flag("nodeport-addresses", comma_list, (), "CIDRs of the addresses that node ports answer on; none means all"),
    Flag(
        "healthz-bind-address", str, f"0.0.0.0:{HEALTHZ_PORT}", 'Where /healthz and /livez answer; "" for nowhere'
    ),
    Flag("metrics-bind-address", str, f"127.0.0.1:{METRICS_PORT}", 'Where /metrics answers; "" for nowhere'),
    Flag("cleanup", boolean, False, "Remove all of kubeproxy's kernel state and exit"),
    Flag("data-dir", str, "/var/lib/kubeproxy", "Where the embedded store lives"),
    Flag("api-bind-address", str, f"127.0.0.1:{API_PORT}", "Where the embedded API answers"),
    Flag("service-cluster-ip-range", str, "10.96.0.0/12", "Cluster IPs that the embedded API hands out"),
    Flag("service-node-port-range", str, "30000-32767", "Node ports that the embedded API hands out"),
    Flag("logging-format", str, "text", "text or json"),
    Flag("v", integer, 0, "Log verbosity; 4 and more shows debug lines"),
    Flag("version", boolean, False, "Print the version and exit"),
]

COMMAND_LINE = CommandLine(
    "kubeproxy",
    "The node agent: carries Services and EndpointSlices into the kernel. "
    "Other commands: kubeproxy apiserver | lab | status | cleanup.",
    FLAGS,
)


class Options(Record, frozen=True, kw_only=True):
    """The agent's validated options; periods in seconds."""

    mode: str
    kubeconfig: str
    master: str
    node_name: str
    cluster_cidrs: tuple[str, ...]
    masquerade_all: bool
    masquerade_bit: int
    localhost_nodeports: bool
    sync_period: float
    min_sync_period: float
    nodeport_addresses: tuple[str, ...]
    healthz_address: tuple[str, int] | None
    metrics_address: tuple[str, int] | None
    cleanup: bool
    data_dir: str
    api_address: tuple[str, int]
    service_range: str
    node_port_range: str
    logging_format: str
    verbosity: int
    version: bool


def parse(argv: Sequence[str]) -> Options:
    """Read and check the command line; ends the program as kube-proxy does when it is wrong."""
    return COMMAND_LINE.parse_or_exit(argv, check=_options)


def _options(values: dict[str, Any]) -> Options:
    get = values.__getitem__
    sync_period, min_sync_period = _periods(values)
    return Options(
        mode=_one_of("mode", get("mode"), MODES),
        kubeconfig=get("kubeconfig"),
        master=_server(get("master")),
        node_name=_node_name(get("hostname-override")),
        cluster_cidrs=_cidrs("cluster-cidr", values),
        masquerade_all=get("masquerade-all"),
        masquerade_bit=_bit(values),
        localhost_nodeports=get("iptables-localhost-nodeports"),
        sync_period=sync_period,
        min_sync_period=min_sync_period,
        nodeport_addresses=_cidrs("nodeport-addresses", values),
        healthz_address=_address("healthz-bind-address", values, HEALTHZ_PORT),
        metrics_address=_address("metrics-bind-address", values, METRICS_PORT),
        cleanup=get("cleanup"),
        data_dir=get("data-dir"),
        api_address=_api_address(values),
        **_ranges(values),
        logging_format=_one_of("logging-format", get("logging-format"), ("text", "json")),
        verbosity=get("v"),
        version=get("version"),
    )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise FlagError(f'invalid argument "{value}" for "--{name}" flag: must be one of {", ".join(allowed)}')
    return value


def _server(url: str) -> str:
    if url and not is_server_url(url):
        raise FlagError(f'invalid argument "{url}" for "--master" flag: must be https://HOST:PORT')
    return url.rstrip("/")


def _node_name(override: str) -> str:
    if override and not override.strip():
        raise FlagError("empty hostname-override is invalid")
    return (override or socket.gethostname()).strip().lower()


def _cidrs(name: str, values: dict[str, Any]) -> tuple[str, ...]:
    found = []
    for text in values[name]:
        cidr = canonical_cidr(text)
        if cidr is None:
            raise FlagError(f'invalid argument "{text}" for "--{name}" flag: invalid CIDR address')
        found.append(cidr)
    return tuple(found)


def _bit(values: dict[str, Any]) -> int:
    bit: int = values["iptables-masquerade-bit"]
    if not 0 <= bit <= 31:
        raise FlagError(f"iptables-masquerade-bit: Invalid value: {bit}: must be within the range [0, 31]")
    return bit


def _periods(values: dict[str, Any]) -> tuple[float, float]:
    period = values["iptables-sync-period"]
    shortest = values["iptables-min-sync-period"]
    if period <= 0:
        raise FlagError(f"iptables-sync-period: Invalid value: {period:g}s: must be greater than 0")
    if not 0 <= shortest <= period:
        raise FlagError(
            f"iptables-min-sync-period: Invalid value: {shortest:g}s: must be between 0 and iptables-sync-period"
        )
    return period, shortest


def _ranges(values: dict[str, Any]) -> dict[str, str]:
    service, node_port = values["service-cluster-ip-range"], values["service-node-port-range"]
    try:
        parse_ranges(service, node_port)
    except ValueError as error:
        raise FlagError(str(error)) from None
    return {"service_range": service, "node_port_range": node_port}


def _address(name: str, values: dict[str, Any], port: int) -> tuple[str, int] | None:
    text = values[name]
    if not text:
        return None
    try:
        address = parse_address(text, port)
    except AddressError as error:
        raise FlagError(f"{name}: {error}") from None
    if canonical_ip(address[0]) is None:
        raise FlagError(f'{name}: Invalid value: "{address[0]}": must be a valid IP')
    return address


def _api_address(values: dict[str, Any]) -> tuple[str, int]:
    """The embedded API is plain HTTP without credentials: for programs of this machine."""
    address = _address("api-bind-address", values, API_PORT) or ("127.0.0.1", API_PORT)
    if not ip_address(address[0]).is_loopback:
        why = "must be a loopback address; `kubeproxy apiserver` serves other machines"
        raise FlagError(f'api-bind-address: Invalid value: "{address[0]}": {why}')
    return address
