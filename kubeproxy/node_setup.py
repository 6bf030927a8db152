"""What the agent sets once on its node, before it serves: all that takes more than CAP_NET_ADMIN.

`--init-only` does this and nothing else, so that the agent itself can then run with less.
"""

import logging
from pathlib import Path

from kubeproxy.dataplane.iptables.localnet import ROUTE_LOCALNET
from kubeproxy.kernel.conntrack_limits import Machine, ensure_limits
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import node_state
from kubeproxy.model.world import World
from kubeproxy.options import Options, conntrack_limits_of, settings_of

log = logging.getLogger(__name__)

OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")


def set_up_node(options: Options, sysctls: Sysctls, machine: Machine) -> None:
    """Set the kernel's parameters that the configuration asks for. Raises SysctlRefused."""
    for note in ensure_limits(sysctls, machine, conntrack_limits_of(options.configuration)):
        log.warning("%s", note)
    # Without --init-only the backend sets it, after its rules, and notes that it did: a cleanup sets it back.
    iptables = options.init_only and options.configuration.mode == "iptables"
    if iptables and node_state(World(), settings_of(options), Family.V4).nodeports_on_loopback:
        sysctls.ensure(ROUTE_LOCALNET, "1")


def set_oom_score_adj(value: int, file: Path = OOM_SCORE_ADJ) -> None:
    """Tell the kernel how readily to kill this process for its memory; a refusal is only logged, as upstream."""
    try:
        file.write_text(str(value))
    except OSError as error:
        log.warning("oom_score_adj %d: %s; going on without", value, error.strerror)
