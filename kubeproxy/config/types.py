"""KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1): its fields and their defaults.

Source: upstream's staging/src/k8s.io/kube-proxy/config/v1alpha1. `Configuration()` is the default but for the two
addresses that hang on ``bind_address``: `decode.defaulted` fills them in.
"""

from typing import Annotated

import msgspec

from kubeproxy.flags import go_duration
from kubeproxy.model.objects import Record

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

HEALTHZ_PORT = 10256
METRICS_PORT = 10249

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class Duration(float):
    """Seconds; in files, flags and answers a Go duration such as `1m30s`, which is also its text."""

    def __str__(self) -> str:
        return go_duration(self)


class FlushFrequency(Duration):
    """A Duration that files may also give as a number of nanoseconds, as kubeadm writes it."""


class Iptables(Record, frozen=True, kw_only=True, rename="camel"):
    """`iptables`: of iptables mode; the ipvs mode takes its mark and its masquerading from here too."""

    masquerade_bit: Int32 = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: Duration = Duration(30)
    min_sync_period: Duration = Duration(0)


class Ipvs(Record, frozen=True, kw_only=True, rename="camel"):
    """`ipvs`: of ipvs mode."""

    sync_period: Duration = Duration(30)
    min_sync_period: Duration = Duration(0)
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] = msgspec.field(default=(), name="excludeCIDRs")
    strict_arp: bool = msgspec.field(default=False, name="strictARP")
    tcp_timeout: Duration = Duration(0)
    tcp_fin_timeout: Duration = Duration(0)
    udp_timeout: Duration = Duration(0)


class Nftables(Record, frozen=True, kw_only=True, rename="camel"):
    """`nftables`: of nftables mode."""

    masquerade_bit: Int32 = 14
    masquerade_all: bool = False
    sync_period: Duration = Duration(30)
    min_sync_period: Duration = Duration(0)


class Winkernel(Record, frozen=True, kw_only=True, rename="camel"):
    """`winkernel`: read because every cluster's file has it; it has no effect on Linux."""

    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = msgspec.field(default=False, name="enableDSR")
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


class Conntrack(Record, frozen=True, kw_only=True, rename="camel"):
    """`conntrack`: the kernel's connection tracking; see `model.conntrack_limits`."""

    max_per_core: Int32 = 32768
    min: Int32 = 131072
    tcp_established_timeout: Duration = Duration(86400)
    tcp_close_wait_timeout: Duration = Duration(3600)
    tcp_be_liberal: bool = False
    udp_timeout: Duration = Duration(0)
    udp_stream_timeout: Duration = Duration(0)


class DetectLocal(Record, frozen=True, kw_only=True, rename="camel"):
    """`detectLocal`: by which interface a pod's traffic comes, in the two modes that ask for one."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


class ClientConnection(Record, frozen=True, kw_only=True, rename="camel"):
    """`clientConnection`: how to reach the API server."""

    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/vnd.kubernetes.protobuf"
    qps: float = 5.0
    burst: Int32 = 10


class TextOptions(Record, frozen=True, kw_only=True, rename="camel"):
    """`logging.options.text` and the same of `json`: alpha settings of Go's log buffers."""

    split_stream: bool = False
    info_buffer_size: str | int = "0"


class LoggingOptions(Record, frozen=True, kw_only=True, rename="camel"):
    """`logging.options`."""

    text: TextOptions = TextOptions()
    json: TextOptions = TextOptions()


class VModule(Record, frozen=True, kw_only=True, rename="camel"):
    """One entry of `logging.vmodule`."""

    file_pattern: str = ""
    verbosity: UInt32 = 0


class Logging(Record, frozen=True, kw_only=True, rename="camel"):
    """`logging`: component-base's LoggingConfiguration."""

    format: str = "text"
    flush_frequency: FlushFrequency = FlushFrequency(5)
    verbosity: UInt32 = 0
    vmodule: tuple[VModule, ...] = ()
    options: LoggingOptions = LoggingOptions()


class Configuration(Record, frozen=True, kw_only=True, rename="camel"):
    """KubeProxyConfiguration."""

    feature_gates: dict[str, bool] = msgspec.field(default_factory=dict)
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: str = ""
    bind_address: str = "0.0.0.0"
    """The node's address, when it is not the first of the Node's; nothing binds to it."""
    healthz_bind_address: str = ""
    metrics_bind_address: str = ""
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: str = ""
    iptables: Iptables = Iptables()
    ipvs: Ipvs = Ipvs()
    nftables: Nftables = Nftables()
    winkernel: Winkernel = Winkernel()
    detect_local_mode: str = ""
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: str = msgspec.field(default="", name="clusterCIDR")
    node_port_addresses: tuple[str, ...] = ()
    oom_score_adj: Int32 = -999
    conntrack: Conntrack = Conntrack()
    config_sync_period: Duration = Duration(900)
    port_range: str = ""
    windows_run_as_service: bool = False

    @property
    def mode_block(self) -> str:
        """The name of the field that holds the selected mode's settings."""
        return self.mode if self.mode in ("ipvs", "nftables") else "iptables"

    @property
    def cluster_cidrs(self) -> tuple[str, ...]:
        """The parts of clusterCIDR, as they were written."""
        return tuple(self.cluster_cidr.split(",")) if self.cluster_cidr else ()

    @property
    def sync_period(self) -> float:
        """Seconds until a failed sync is tried again, in the selected mode."""
        return float(self._periods.sync_period)

    @property
    def min_sync_period(self) -> float:
        """The fewest seconds between two syncs, in the selected mode."""
        return float(self._periods.min_sync_period)

    @property
    def _periods(self) -> Iptables | Ipvs | Nftables:
        if self.mode == "ipvs":
            return self.ipvs
        return self.nftables if self.mode == "nftables" else self.iptables

    @property
    def masquerade_all(self) -> bool:
        """Whether all traffic to cluster IPs is masqueraded, in the selected mode."""
        return (self.nftables if self.mode == "nftables" else self.iptables).masquerade_all

    @property
    def masquerade_bit(self) -> int:
        """The bit of the packet mark that asks for masquerading, in the selected mode."""
        return (self.nftables if self.mode == "nftables" else self.iptables).masquerade_bit
