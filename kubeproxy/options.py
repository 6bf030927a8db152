"""The node agent's command line: kube-proxy's flags, and the few that only the embedded store needs.

A command line and a file (--config) lead to the same value, a resolved and validated `Configuration`; what
upstream keeps outside of it, and our own flags, stand beside it in `Options`.
"""

import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from math import ceil
from pathlib import Path
from typing import Any

import msgspec

from kubeproxy.apiserver.allocate import parse_ranges
from kubeproxy.config.decode import DecodeError, decode, resolved
from kubeproxy.config.flags import FLAGS, LOG_FLAGS, from_flags, with_flags
from kubeproxy.config.gates import ALLOW_EXTERNAL_IPS, ELSEWHERE, enabled
from kubeproxy.config.types import HEALTHZ_PORT, METRICS_PORT, Configuration, Ipvs
from kubeproxy.config.validation import AUTO, aggregate, validate
from kubeproxy.config.watch import digest
from kubeproxy.flags import CommandLine, Flag, FlagError, Values, boolean, flag_value, int32
from kubeproxy.health.http import AddressError, parse_address
from kubeproxy.model.addresses import canonical_cidr, canonical_ip
from kubeproxy.model.conntrack_limits import ConntrackLimits
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER, IpvsSettings
from kubeproxy.model.objects import Record
from kubeproxy.model.settings import PRIMARY, LocalMode, Settings
from kubeproxy.store.kubeconfig import is_server_url

BUILT_MODES = ("nftables", "ipvs", "iptables")
"""The modes that there are, the best first."""

API_PORT = 8001

_GOES_AWAY = "This flag is deprecated and will be removed in a future release."

OWN_FLAGS = [
    Flag("config", str, "", "Path of a KubeProxyConfiguration file; flags that it could hold are then ignored"),
    Flag(
        "write-config-to",
        str,
        "",
        "Write the configuration that results, defaults included, to this file and exit",
    ),
    Flag(
        "master",
        str,
        "",
        "URL of the API server (overrides any value in kubeconfig); with neither, the cluster that we run in, "
        "or else an embedded store and API",
    ),
    Flag(
        "hostname-override", str, "", "Name of this node, when it is not the host's name; counts beside --config"
    ),
    Flag("cleanup", boolean, False, "Remove all of kubeproxy's kernel state and exit"),
    Flag("init-only", boolean, False, "Set the kernel parameters that need full privileges and exit"),
    Flag("version", boolean, False, "Print the version and exit"),
    Flag(
        "healthz-port",
        int32,
        HEALTHZ_PORT,
        "Port of the healthz address, 0 for nowhere",
        deprecated=f"{_GOES_AWAY} Please use --healthz-bind-address instead.",
    ),
    Flag(
        "metrics-port",
        int32,
        METRICS_PORT,
        "Port of the metrics address, 0 for nowhere",
        deprecated=f"{_GOES_AWAY} Please use --metrics-bind-address instead.",
    ),
    Flag("boot-id-file", str, "/proc/sys/kernel/random/boot_id", "None", deprecated="it has no effect here."),
    Flag(
        "machine-id-file",
        str,
        "/etc/machine-id,/var/lib/dbus/machine-id",
        "None",
        deprecated="it has no effect here.",
    ),
]
"""What kube-proxy takes beside its configuration."""

EMBEDDED_FLAGS = [
    Flag("data-dir", str, "/var/lib/kubeproxy", "Where the embedded store lives"),
    Flag("api-bind-address", str, f"127.0.0.1:{API_PORT}", "Where the embedded API answers"),
    Flag("service-cluster-ip-range", str, "10.96.0.0/12", "Cluster IPs that the embedded API hands out"),
    Flag("service-node-port-range", str, "30000-32767", "Node ports that the embedded API hands out"),
]

COMMAND_LINE = CommandLine(
    "kubeproxy",
    "The node agent: carries Services and EndpointSlices into the kernel. "
    "Other commands: kubeproxy apiserver | lab | status | trace | cleanup.",
    [*OWN_FLAGS, *FLAGS, *LOG_FLAGS, *EMBEDDED_FLAGS],
)


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the text names every field that is wrong."""


class Options(Record, frozen=True, kw_only=True):
    """All that was asked of the agent, checked."""

    configuration: Configuration
    config_file: str = ""
    config_digest: str = ""
    """Of the file's content that was read; see `config.watch`."""
    write_config_to: str = ""
    master: str = ""
    node_name: str
    cleanup: bool = False
    init_only: bool = False
    version: bool = False
    data_dir: str
    api_address: tuple[str, int]
    service_range: str
    node_port_range: str
    notes: tuple[str, ...] = ()
    """What an administrator should read in the log."""
    flags: dict[str, str]
    """Every flag of the command line and its value, as `/flagz` shows them."""

    @property
    def healthz_address(self) -> tuple[str, int] | None:
        """Where to answer /healthz and /livez."""
        return _host_port(self.configuration.healthz_bind_address, HEALTHZ_PORT)

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where to answer /metrics and its neighbours."""
        return _host_port(self.configuration.metrics_bind_address, METRICS_PORT)


def settings_of(options: Options) -> Settings:
    """Return what the model and the backends need of the options."""
    chosen = options.configuration
    return Settings(
        node_name=options.node_name,
        bind_address=canonical_ip(chosen.bind_address) or "",
        detect_local=LocalMode(chosen.detect_local_mode),
        cluster_cidrs=_canonical(chosen.cluster_cidrs),
        pod_bridge=chosen.detect_local.bridge_interface,
        pod_interface_prefix=chosen.detect_local.interface_name_prefix,
        masquerade_all=chosen.masquerade_all,
        masquerade_bit=chosen.masquerade_bit,
        nodeport_addresses=_canonical(chosen.node_port_addresses),
        localhost_nodeports=chosen.iptables.localhost_node_ports and chosen.mode != "nftables",
        allow_external_ips=enabled(chosen.feature_gates, ALLOW_EXTERNAL_IPS),
        ipvs=_ipvs_settings(chosen.ipvs) if chosen.mode == "ipvs" else None,
    )


def excluded_cidrs(options: Options) -> tuple[str, ...]:
    """Return where virtual servers are none of kube-proxy's, in whichever mode; canonical."""
    return _canonical(options.configuration.ipvs.exclude_cidrs)


def _ipvs_settings(block: Ipvs) -> IpvsSettings:
    return IpvsSettings(
        scheduler=block.scheduler or DEFAULT_SCHEDULER,
        exclude_cidrs=_canonical(block.exclude_cidrs),
        strict_arp=block.strict_arp,
        tcp_timeout=ceil(block.tcp_timeout),
        tcp_fin_timeout=ceil(block.tcp_fin_timeout),
        udp_timeout=ceil(block.udp_timeout),
    )


def conntrack_limits_of(configuration: Configuration) -> ConntrackLimits:
    """Return what is wanted of the kernel's connection tracking."""
    block = configuration.conntrack
    return ConntrackLimits(
        max_per_core=block.max_per_core,
        min=block.min,
        tcp_established=float(block.tcp_established_timeout),
        tcp_close_wait=float(block.tcp_close_wait_timeout),
        tcp_be_liberal=block.tcp_be_liberal,
        udp_timeout=float(block.udp_timeout),
        udp_stream_timeout=float(block.udp_stream_timeout),
    )


def parse(argv: Sequence[str]) -> Options:
    """Read and check the command line and the file that it names; ends the program when something is wrong."""
    try:
        return COMMAND_LINE.parse_or_exit(argv, check=_options)
    except ConfigurationError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _options(values: Values) -> Options:
    """Raises FlagError for a flag and ConfigurationError for the whole."""
    notes: list[str] = []
    content = b""
    if values["config"]:
        content = _read(values["config"])
        configuration = _from_file(content, values, notes)
    else:
        configuration = from_flags(values)
    configuration = resolved(configuration)
    if errors := _errors(configuration):
        raise ConfigurationError(aggregate(errors))
    notes += [
        f"feature gate {name} has no effect here" for name in configuration.feature_gates if name in ELSEWHERE
    ]
    return Options(
        configuration=configuration,
        config_file=values["config"],
        config_digest=digest(content),
        write_config_to=values["write-config-to"],
        master=_server(values["master"]),
        node_name=_node_name(values["hostname-override"], configuration.hostname_override),
        cleanup=values["cleanup"],
        init_only=values["init-only"],
        version=values["version"],
        data_dir=values["data-dir"],
        api_address=_api_address(values["api-bind-address"]),
        **_ranges(values),
        notes=tuple(notes),
        flags={name: flag_value(value) for name, value in values.items()},
    )


def _errors(configuration: Configuration) -> list[str]:
    """Check a configuration, in every mode that it may come to run in."""
    if configuration.mode != AUTO:
        return validate(configuration)
    found = [each for mode in BUILT_MODES for each in validate(_in_mode(configuration, mode))]
    return list(dict.fromkeys(found))


def _in_mode(configuration: Configuration, mode: str) -> Configuration:
    return resolved(msgspec.structs.replace(configuration, mode=mode))


def in_mode(options: Options, mode: str) -> Options:
    """Return options whose mode, `auto` until now, is decided."""
    return msgspec.structs.replace(options, configuration=_in_mode(options.configuration, mode))


def without_a_node(options: Options) -> Options:
    """Return options for an agent whose API has no Node that could say which address is the primary one."""
    if options.configuration.node_port_addresses != (PRIMARY,):
        return options
    everywhere = msgspec.structs.replace(options.configuration, node_port_addresses=())
    return msgspec.structs.replace(options, configuration=everywhere)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"open {path}: {error.strerror}") from None


def _from_file(content: bytes, values: Values, notes: list[str]) -> Configuration:
    try:
        decoded = decode(content)
    except DecodeError as error:
        raise ConfigurationError(f"{values['config']}: {error}") from None
    if decoded.strict_error:
        notes.append(f"Using lenient decoding as strict decoding failed: {decoded.strict_error}")
    ports = {"healthz-port", "metrics-port"}
    if ignored := sorted(values.given & ({flag.name for flag in FLAGS} | ports)):
        notes.append(f"--config is given, so these flags are ignored: {', '.join(ignored)}")
    given = [flag.name for flag in LOG_FLAGS if flag.name in values.given]
    return with_flags(decoded.configuration, values, given)


def _node_name(override: str, configured: str) -> str:
    if override and not override.strip():
        raise FlagError("empty hostname-override is invalid")
    name = (override or configured or socket.gethostname()).strip().lower()
    if not name:
        raise ConfigurationError("empty hostname is invalid")
    return name


def _canonical(cidrs: Sequence[str]) -> tuple[str, ...]:
    """Normalise checked CIDRs; a word such as `primary` stays."""
    return tuple(canonical_cidr(text) or text for text in cidrs)


def _server(url: str) -> str:
    if url and not is_server_url(url):
        raise FlagError(f'invalid argument "{url}" for "--master" flag: must be https://HOST:PORT')
    return url.rstrip("/")


def _ranges(values: dict[str, Any]) -> dict[str, str]:
    service, node_port = values["service-cluster-ip-range"], values["service-node-port-range"]
    try:
        parse_ranges(service, node_port)
    except ValueError as error:
        raise FlagError(str(error)) from None
    return {"service_range": service, "node_port_range": node_port}


def _host_port(text: str, port: int) -> tuple[str, int] | None:
    if not text:
        return None
    host, number = parse_address(text, port)
    return canonical_ip(host) or host, number


def _api_address(text: str) -> tuple[str, int]:
    """The embedded API is plain HTTP without credentials: for programs of this machine."""
    try:
        address = parse_address(text or f"127.0.0.1:{API_PORT}", API_PORT)
    except AddressError as error:
        raise FlagError(f"api-bind-address: {error}") from None
    why = ""
    if canonical_ip(address[0]) is None:
        why = "must be a valid IP"
    elif not ip_address(address[0]).is_loopback:
        why = "must be a loopback address; `kubeproxy apiserver` serves other machines"
    if why:
        raise FlagError(f'api-bind-address: Invalid value: "{address[0]}": {why}')
    return address
