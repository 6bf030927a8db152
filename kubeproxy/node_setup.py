"""What the agent sets once on its node, before it serves: all that takes more than CAP_NET_ADMIN.

`--init-only` does this and nothing else, so that the agent itself can then run with less.
"""

import logging
from pathlib import Path
from typing import Protocol

from kubeproxy.dataplane.iptables.localnet import ROUTE_LOCALNET
from kubeproxy.dataplane.ipvs.sysctls import ensure_sysctls
from kubeproxy.kernel.conntrack_limits import Machine, ensure_limits
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import node_state
from kubeproxy.model.world import World
from kubeproxy.options import Options, conntrack_limits_of, settings_of

log = logging.getLogger(__name__)


class Timers(Protocol):
    """IPVS, of which only its timeouts count here (`kernel.virtual_servers.VirtualServers`)."""

    def set_timeouts(self, *, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        """Set them, in seconds; 0 leaves one as it is. Raises KernelError, OSError."""
        ...


OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")


def set_up_node(options: Options, sysctls: Sysctls, machine: Machine, timers: Timers) -> None:
    """Set the kernel's parameters that the configuration asks for, its mode decided. Raises SysctlRefused."""
    for note in ensure_limits(sysctls, machine, conntrack_limits_of(options.configuration)):
        log.warning("%s", note)
    settings = settings_of(options)
    if settings.ipvs is not None:
        ensure_sysctls(sysctls, settings.ipvs)
        _set_timeouts(settings.ipvs, timers)
    # Without --init-only the backend sets it, after its rules, and notes that it did: a cleanup sets it back.
    iptables = options.init_only and options.configuration.mode == "iptables"
    if iptables and node_state(World(), settings, Family.V4).nodeports_on_loopback:
        sysctls.ensure(ROUTE_LOCALNET, "1")


def _set_timeouts(settings: IpvsSettings, timers: Timers) -> None:
    """Set how long IPVS remembers idle connections; a refusal is only logged, as upstream."""
    tcp, tcp_fin, udp = settings.tcp_timeout, settings.tcp_fin_timeout, settings.udp_timeout
    if not (tcp or tcp_fin or udp):
        return
    try:
        timers.set_timeouts(tcp=tcp, tcp_fin=tcp_fin, udp=udp)
    except (KernelError, OSError) as error:
        log.error("the timeouts of IPVS stay as they are: %s", error)


def set_oom_score_adj(value: int, file: Path = OOM_SCORE_ADJ) -> None:
    """Tell the kernel how readily to kill this process for its memory; a refusal is only logged, as upstream."""
    try:
        file.write_text(str(value))
    except OSError as error:
        log.warning("oom_score_adj %d: %s; going on without", value, error.strerror)
