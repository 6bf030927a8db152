"""What upstream refuses in a KubeProxyConfiguration: every error, in its words and with the field's path.

The paths are those of the file (`KubeProxyConfiguration.iptables.masqueradeBit`), so that whoever reads a message
finds the line. Source: upstream's pkg/proxy/apis/config/validation and component-base's logs/api/v1.
"""

import json
import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from kubeproxy.config.gates import LOGGING_ALPHA, complaint, enabled
from kubeproxy.config.types import KIND, Configuration, Duration
from kubeproxy.model.addresses import canonical_cidr, canonical_ip
from kubeproxy.model.settings import PRIMARY, LocalMode

MODES = ("iptables", "ipvs", "nftables")
AUTO = "auto"
"""Our own: the best mode that the node can run; which one that is, only the node can tell (`modes.choose`)."""
LOCAL_MODES = tuple(map(str, LocalMode))
PREVIOUS_MINOR = "1.35"
"""The version whose hidden metrics could be asked for: the one before that of upstream which we follow."""

_PAIR = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"


def validate(configuration: Configuration) -> list[str]:
    """Return every error, in upstream's order; the configuration is a defaulted one."""
    checks = (
        _gates,
        _marks,
        _ipvs,
        _conntrack,
        _choices,
        _periods,
        _addresses,
        _node_ports,
        _metrics,
        _local,
        _logs,
    )
    return list(dict.fromkeys(error for check in checks for error in check(configuration)))


def aggregate(errors: list[str]) -> str:
    """Return them as one line, as upstream prints them."""
    return errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"


def invalid(path: str, value: Any, detail: str) -> str:
    """Return one error in the form of Kubernetes' field errors."""
    return f"{KIND}.{path}: Invalid value: {_quoted(value)}: {detail}"


def _gates(c: Configuration) -> Iterator[str]:
    if wrong := complaint(c.feature_gates):
        yield invalid("featureGates", c.feature_gates, wrong)


def _marks(c: Configuration) -> Iterator[str]:
    bits = {"iptables": c.iptables.masquerade_bit}
    if c.mode == "nftables":
        bits["nftables"] = c.nftables.masquerade_bit
    for block, bit in bits.items():
        if not 0 <= bit <= 31:
            yield invalid(f"{block}.masqueradeBit", bit, "must be within the range [0, 31]")


def _ipvs(c: Configuration) -> Iterator[str]:
    if c.mode != "ipvs":
        return
    times = {"tcpTimeout": c.ipvs.tcp_timeout, "tcpFinTimeout": c.ipvs.tcp_fin_timeout}
    for name, seconds in {**times, "udpTimeout": c.ipvs.udp_timeout}.items():
        yield from _not_negative(f"ipvs.{name}", seconds)
    for i, cidr in enumerate(c.ipvs.exclude_cidrs):
        if canonical_cidr(cidr) is None:
            yield invalid(f"ipvs.excludeCIDRs[{i}]", cidr, "must be a valid CIDR")


def _conntrack(c: Configuration) -> Iterator[str]:
    block = c.conntrack
    fields = {
        "maxPerCore": block.max_per_core,
        "min": block.min,
        "tcpEstablishedTimeout": block.tcp_established_timeout,
        "tcpCloseWaitTimeout": block.tcp_close_wait_timeout,
        "udpTimeout": block.udp_timeout,
        "udpStreamTimeout": block.udp_stream_timeout,
    }
    for name, value in fields.items():
        yield from _not_negative(f"conntrack.{name}", value)
    if not -1000 <= c.oom_score_adj <= 1000:
        yield invalid("oomScoreAdj", c.oom_score_adj, "must be within the range [-1000, 1000]")


def _choices(c: Configuration) -> Iterator[str]:
    if c.mode not in ("", AUTO, *MODES):
        detail = f"must be {', '.join(MODES)}, {AUTO} (the best that this node can run) or blank (iptables)"
        yield invalid("mode", c.mode, detail)
    yield from _not_negative("clientConnection.burst", c.client_connection.burst)


def _periods(c: Configuration) -> Iterator[str]:
    if c.config_sync_period <= 0:
        yield invalid("configSyncPeriod", c.config_sync_period, "must be greater than 0")
    block, sync, shortest = c.mode_block, Duration(c.sync_period), Duration(c.min_sync_period)
    if sync <= 0:
        yield invalid(f"{block}.syncPeriod", sync, "must be greater than 0")
    yield from _not_negative(f"{block}.minSyncPeriod", shortest)
    if shortest > sync:
        detail = f"must be greater than or equal to {KIND}.{block}.minSyncPeriod"
        yield invalid(f"{block}.syncPeriod", shortest, detail)


def _addresses(c: Configuration) -> Iterator[str]:
    if canonical_ip(c.bind_address) is None:
        yield invalid("bindAddress", c.bind_address, "not a valid textual representation of an IP address")
    # Upstream's own help says that an empty metrics address turns that server off, and its validation refuses it.
    for path, address in (
        ("healthzBindAddress", c.healthz_bind_address),
        ("metricsBindAddress", c.metrics_bind_address),
    ):
        if address:
            yield from _host_port(path, address)
    if c.port_range and not re.fullmatch(r"\d+|\d+[-+]\d*", c.port_range.strip(), re.ASCII):
        yield invalid("portRange", c.port_range, "must be a valid port range (e.g. 300-2000)")


def _host_port(path: str, text: str) -> Iterator[str]:
    split = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([^:\[\]]*)", text)
    if split is None:
        yield invalid(path, text, "must be IP:port")
        return
    host, port = split[1] or split[2] or "", split[3]
    if canonical_ip(host) is None:
        yield invalid(path, host, "must be a valid IP")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
        yield invalid(path, port, "must be a valid port")


def _node_ports(c: Configuration) -> Iterator[str]:
    for i, text in enumerate(c.node_port_addresses):
        if text == PRIMARY:
            if len(c.node_port_addresses) != 1:
                yield invalid(f"nodePortAddresses[{i}]", text, "can't use both 'primary' and CIDRs")
            return
        if canonical_cidr(text) is None:
            yield invalid(f"nodePortAddresses[{i}]", text, "must be a valid CIDR")


def _metrics(c: Configuration) -> Iterator[str]:
    version = c.show_hidden_metrics_for_version
    if version not in ("", PREVIOUS_MINOR):
        detail = f"--show-hidden-metrics-for-version must be omitted or have the value '{PREVIOUS_MINOR}'"
        yield invalid(
            "showHiddenMetricsForVersion", version, f"{detail}. Only the previous minor version is allowed"
        )


def _local(c: Configuration) -> Iterator[str]:
    mode = c.detect_local_mode
    if mode not in ("", *LOCAL_MODES):
        supported = ", ".join(f'"{each}"' for each in (*LOCAL_MODES, ""))
        yield f"{KIND}.detectLocalMode: Unsupported value: {_quoted(mode)}: supported values: {supported}"
    if mode == "BridgeInterface" and not c.detect_local.bridge_interface:
        yield invalid("detectLocal.bridgeInterface", "", "must not be empty")
    if mode == "InterfaceNamePrefix" and not c.detect_local.interface_name_prefix:
        yield invalid("detectLocal.interfaceNamePrefix", "", "must not be empty")
    if mode in ("", "ClusterCIDR"):
        yield from _cluster_cidrs(c.cluster_cidrs)


def _cluster_cidrs(cidrs: tuple[str, ...]) -> Iterator[str]:
    if len(cidrs) > 2:
        yield invalid("clusterCIDR", cidrs, _PAIR)
        return
    canonical = [canonical_cidr(text) for text in cidrs]
    for text, cidr in zip(cidrs, canonical, strict=True):
        if cidr is None:
            detail = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"
            yield invalid("clusterCIDR", text, detail)
    versions = [ip_network(cidr).version for cidr in canonical if cidr is not None]
    if len(versions) == 2 and versions[0] == versions[1]:
        yield invalid("clusterCIDR", cidrs, _PAIR)


def _logs(c: Configuration) -> Iterator[str]:
    log = c.logging
    if log.format not in ("text", "json"):
        yield invalid("logging.format", log.format, "Unsupported log format")
    if log.verbosity > 2**31 - 1:
        yield invalid("logging.verbosity", log.verbosity, f"Must be <= {2**31 - 1}")
    if log.vmodule and log.format != "text":
        yield f"{KIND}.logging.vmodule: Forbidden: Only supported for text log format"
    for i, item in enumerate(log.vmodule):
        path = f"logging.vmodule[{i}]"
        if not item.file_pattern:
            yield f"{KIND}.{path}: Required value: File pattern must not be empty"
        if set(item.file_pattern) & set("=,"):
            yield invalid(path, item.file_pattern, "File pattern must not contain equal sign or comma")
    if not enabled(c.feature_gates, LOGGING_ALPHA):
        for name, options in (("text", log.options.text), ("json", log.options.json)):
            alpha = {
                "splitStream": options.split_stream,
                "infoBufferSize": str(options.info_buffer_size) not in ("", "0"),
            }
            for field, used in alpha.items():
                if used:
                    yield f"{KIND}.logging.options.{name}.{field}: Forbidden: Feature {LOGGING_ALPHA} is disabled"


def _not_negative(path: str, value: float) -> Iterator[str]:
    if value < 0:
        yield invalid(path, value, "must be greater than or equal to 0")


def _quoted(value: Any) -> str:
    """Return a value as upstream's field errors quote it."""
    if isinstance(value, Duration):
        return json.dumps(str(value))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
