"""kube-proxy's flags that fill a KubeProxyConfiguration, each by the path of the field it sets.

The names, defaults and meanings are upstream's (cmd/kube-proxy/app/options.go); a default stands only once, in
`types`. A flag that upstream takes and that has nothing to do here is taken too, and its help says so.
"""

import re
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import Any

import msgspec

from kubeproxy.config.decode import defaulted, with_port
from kubeproxy.config.types import HEALTHZ_PORT, METRICS_PORT, Configuration, Duration, VModule
from kubeproxy.flags import Flag, FlagError, boolean, comma_list, duration, int32, number
from kubeproxy.model.addresses import canonical_ip

DEFAULTS = defaulted(Configuration())

NO_EFFECT = "No effect here"


def time(text: str) -> Duration:
    """Parse a Go duration."""
    return Duration(duration(text))


def gates(text: str) -> dict[str, bool]:
    """Parse `A=true,B=false`."""
    found = {}
    for pair in comma_list(text):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"malformed pair, expect string=bool: {pair}")
        try:
            found[name.strip()] = boolean(value.strip())
        except ValueError as error:
            raise ValueError(f"invalid value of {name.strip()}: {value.strip()}, err: {error}") from None
    return found


def ip(text: str) -> str:
    """Parse an IP address, or nothing."""
    if text and canonical_ip(text) is None:
        raise ValueError(f'"{text}" is not a valid IP address')
    return text


def ip_port(text: str) -> str:
    """Parse `IP`, `IP:port`, `[IP]:port`, or nothing."""
    if not text or canonical_ip(text) is not None:
        return text
    split = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([^:\[\]]*)", text)
    if split is None:
        raise ValueError(f'"{text}" is not in a valid format (ip or ip:port)')
    host, port = split[1] or split[2] or "", split[3]
    if canonical_ip(host) is None:
        raise ValueError(f'"{host}" is not a valid IP address')
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError(f'"{port}" is not a valid number')
    return text


def verbosity(text: str) -> int:
    """Parse a log level: a number that is not negative."""
    value = int32(text)
    if value < 0:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return value


def vmodule(text: str) -> tuple[VModule, ...]:
    """Parse `pattern=N,…`."""
    found = []
    for pair in comma_list(text):
        pattern, equals, level = pair.partition("=")
        if not equals or not pattern:
            raise ValueError(f'"{pair}" does not have the pattern=N format')
        found.append(VModule(file_pattern=pattern, verbosity=verbosity(level)))
    return tuple(found)


PATHS: dict[str, tuple[str, ...]] = {}
"""The fields that each flag sets."""


def _flag(
    name: str,
    kind: Callable[[str], Any],
    paths: str,
    text: str,
    *,
    alias: str = "",
    repeatable: bool = False,
) -> Flag:
    PATHS[name] = tuple(paths.split())
    first = reduce(getattr, PATHS[name][0].split("."), DEFAULTS)
    return Flag(name, kind, first, text, alias, repeatable)


_IPVS = "ipvs mode:"

FLAGS = [
    _flag(
        "proxy-mode",
        str,
        "mode",
        "How Services reach the kernel: iptables (also the default), ipvs or nftables; "
        "`auto` takes the best that this node can run",
        alias="mode",
    ),
    _flag(
        "feature-gates", gates, "feature_gates", "Gate=true or =false pairs with commas between", repeatable=True
    ),
    _flag(
        "kubeconfig",
        str,
        "client_connection.kubeconfig",
        "Path of the kubeconfig file, or several with colons between, as in KUBECONFIG",
    ),
    _flag(
        "kube-api-content-type",
        str,
        "client_connection.content_type",
        f"{NO_EFFECT}: the API server is spoken to in JSON",
    ),
    _flag("kube-api-burst", int32, "client_connection.burst", f"{NO_EFFECT}: an agent asks little"),
    _flag("kube-api-qps", number, "client_connection.qps", f"{NO_EFFECT}: an agent asks little"),
    _flag(
        "bind-address",
        ip,
        "bind_address",
        "This node's address, when it is not the first one of its Node object; nothing is bound to it",
    ),
    _flag(
        "healthz-bind-address",
        ip_port,
        "healthz_bind_address",
        f'Where /healthz and /livez answer; the port is {HEALTHZ_PORT} if left out; "" for nowhere',
    ),
    _flag(
        "metrics-bind-address",
        ip_port,
        "metrics_bind_address",
        f'Where /metrics answers; the port is {METRICS_PORT} if left out; "" for nowhere',
    ),
    _flag(
        "bind-address-hard-fail",
        boolean,
        "bind_address_hard_fail",
        "End when one of these two addresses cannot be listened on, instead of trying again",
    ),
    _flag("profiling", boolean, "enable_profiling", "Serve /debug/pprof at the metrics address"),
    _flag(
        "show-hidden-metrics-for-version",
        str,
        "show_hidden_metrics_for_version",
        "The version before this one, whose hidden metrics to show (there are none)",
    ),
    _flag(
        "iptables-masquerade-bit",
        int32,
        "iptables.masquerade_bit",
        "Bit of the packet mark that asks for masquerading (0 to 31), in iptables and ipvs mode",
    ),
    _flag(
        "masquerade-all",
        boolean,
        "iptables.masquerade_all nftables.masquerade_all",
        "Masquerade all traffic to cluster IPs",
    ),
    _flag(
        "iptables-localhost-nodeports",
        boolean,
        "iptables.localhost_node_ports",
        "Answer node ports on 127.0.0.1 too (iptables mode and IPv4 only)",
    ),
    _flag(
        "iptables-sync-period",
        time,
        "iptables.sync_period nftables.sync_period",
        "How long until a failed sync is tried again (not in ipvs mode)",
    ),
    _flag(
        "iptables-min-sync-period",
        time,
        "iptables.min_sync_period nftables.min_sync_period",
        "Shortest time between two syncs (not in ipvs mode)",
    ),
    _flag("ipvs-sync-period", time, "ipvs.sync_period", f"{_IPVS} how long until a failed sync is tried again"),
    _flag(
        "ipvs-min-sync-period",
        time,
        "ipvs.min_sync_period",
        f"{_IPVS} shortest time between two syncs",
    ),
    _flag("ipvs-scheduler", str, "ipvs.scheduler", f"{_IPVS} the kernel's scheduler; rr if left out"),
    _flag(
        "ipvs-exclude-cidrs",
        comma_list,
        "ipvs.exclude_cidrs",
        f"{_IPVS} CIDRs whose virtual servers are left alone",
        repeatable=True,
    ),
    _flag("ipvs-strict-arp", boolean, "ipvs.strict_arp", f"{_IPVS} set arp_ignore to 1 and arp_announce to 2"),
    _flag("ipvs-tcp-timeout", time, "ipvs.tcp_timeout", f"{_IPVS} timeout of idle TCP connections; 0 leaves it"),
    _flag("ipvs-tcpfin-timeout", time, "ipvs.tcp_fin_timeout", f"{_IPVS} timeout after a FIN; 0 leaves it"),
    _flag("ipvs-udp-timeout", time, "ipvs.udp_timeout", f"{_IPVS} timeout of idle UDP flows; 0 leaves it"),
    _flag(
        "detect-local-mode",
        str,
        "detect_local_mode",
        "How this node's pods are told from others: ClusterCIDR (the default), NodeCIDR, BridgeInterface or "
        "InterfaceNamePrefix",
    ),
    _flag(
        "pod-bridge-interface",
        str,
        "detect_local.bridge_interface",
        "Mode BridgeInterface: the bridge that this node's pods come from",
    ),
    _flag(
        "pod-interface-name-prefix",
        str,
        "detect_local.interface_name_prefix",
        "Mode InterfaceNamePrefix: how the interfaces of this node's pods begin",
    ),
    _flag(
        "cluster-cidr",
        str,
        "cluster_cidr",
        "Mode ClusterCIDR: CIDR of the pods, or one of each family with a comma between; "
        "traffic to cluster IPs from elsewhere is masqueraded",
    ),
    _flag(
        "nodeport-addresses",
        comma_list,
        "node_port_addresses",
        "CIDRs of the addresses that node ports answer on, or `primary` for the Node's own; none means all",
        repeatable=True,
    ),
    _flag("oom-score-adj", int32, "oom_score_adj", "This process' oom_score_adj (-1000 to 1000)"),
    _flag(
        "conntrack-max-per-core",
        int32,
        "conntrack.max_per_core",
        "Connections to track per CPU core; 0 leaves the limit alone, conntrack-min too",
    ),
    _flag("conntrack-min", int32, "conntrack.min", "The fewest connections to make room for"),
    _flag(
        "conntrack-tcp-timeout-established",
        time,
        "conntrack.tcp_established_timeout",
        "Timeout of idle TCP connections; 0 leaves it alone",
    ),
    _flag(
        "conntrack-tcp-timeout-close-wait",
        time,
        "conntrack.tcp_close_wait_timeout",
        "Timeout of TCP connections in CLOSE_WAIT; 0 leaves it alone",
    ),
    _flag(
        "conntrack-tcp-be-liberal",
        boolean,
        "conntrack.tcp_be_liberal",
        "Take TCP segments outside of the window for valid",
    ),
    _flag(
        "conntrack-udp-timeout",
        time,
        "conntrack.udp_timeout",
        "Timeout of UDP flows without an answer; 0 leaves it alone",
    ),
    _flag(
        "conntrack-udp-timeout-stream",
        time,
        "conntrack.udp_stream_timeout",
        "Timeout of UDP flows that went both ways; 0 leaves it alone",
    ),
    _flag("config-sync-period", time, "config_sync_period", f"{NO_EFFECT}: watches are followed, not polled"),
]

LOG_FLAGS = [
    _flag("logging-format", str, "logging.format", "text or json"),
    _flag("v", verbosity, "logging.verbosity", "Log verbosity; 4 and more shows debug lines"),
    _flag("vmodule", vmodule, "logging.vmodule", "pattern=N pairs: the verbosity of single source files"),
    _flag("log-flush-frequency", time, "logging.flush_frequency", f"{NO_EFFECT}: no line is held back"),
    _flag("log-text-split-stream", boolean, "logging.options.text.split_stream", f"[Alpha] {NO_EFFECT}"),
    _flag("log-text-info-buffer-size", str, "logging.options.text.info_buffer_size", f"[Alpha] {NO_EFFECT}"),
    _flag("log-json-split-stream", boolean, "logging.options.json.split_stream", f"[Alpha] {NO_EFFECT}"),
    _flag("log-json-info-buffer-size", str, "logging.options.json.info_buffer_size", f"[Alpha] {NO_EFFECT}"),
]
"""The flags that also count beside a configuration file."""


def with_flags(configuration: Configuration, values: Mapping[str, Any], names: Collection[str]) -> Configuration:
    """Return a configuration with the fields that these flags set. Raises FlagError."""
    for name in names:
        value = values[name]
        if name == "feature-gates":
            value = reduce(lambda one, other: one | other, value, {}) if isinstance(value, tuple) else value
        elif name in ("nodeport-addresses", "ipvs-exclude-cidrs"):
            value = tuple(part for parts in value for part in parts)
        elif name == "vmodule":
            # The line's patterns come before the file's: the first that fits a source file counts.
            value = (*value, *configuration.logging.vmodule)
        for path in PATHS[name]:
            configuration = _set(configuration, path.split("."), value)
    return configuration


def from_flags(values: Mapping[str, Any]) -> Configuration:
    """Return the configuration that a line without --config asks for, defaults included. Raises FlagError."""
    filled = with_flags(DEFAULTS, values, [flag.name for flag in (*FLAGS, *LOG_FLAGS)])
    return msgspec.structs.replace(
        filled,
        healthz_bind_address=_with_deprecated_port(filled.healthz_bind_address, values["healthz-port"]),
        metrics_bind_address=_with_deprecated_port(filled.metrics_bind_address, values["metrics-port"]),
    )


def _with_deprecated_port(address: str, port: int) -> str:
    """--healthz-port and --metrics-port: 0 turns the server off, another goes to an address that has none."""
    if port and not 0 < port < 65536:
        raise FlagError(f"port {port} is not between 0 and 65535")
    return with_port(address, port) if port else ""


def _set(holder: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    changed = _set(getattr(holder, name), rest, value) if rest else value
    return msgspec.structs.replace(holder, **{name: changed})
