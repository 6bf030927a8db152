"""`kubeproxy cleanup` (and `kubeproxy --cleanup`): take all service-proxy state out of the kernel.

Ours and that of kube-proxy, in all three of its modes, since they share names and whoever cleans up often does
not know what ran before; nobody else's. Works without a configuration or an API server, and with whichever of the
iptables programs there are. An agent that runs would write everything again within seconds, so it is refused then,
before a connection has lost anything by it; and no agent starts while it is at work.
"""

import os
import sys
from collections.abc import Sequence

from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import remove
from kubeproxy.flags import CommandLine
from kubeproxy.kernel.sole import PROGRAMMING, Taken, alone
from kubeproxy.model.addresses import Family

COMMAND_LINE = CommandLine(
    "kubeproxy cleanup",
    "Remove every trace of kubeproxy and of kube-proxy from this node's kernel. Run it as root, and end them "
    "first: what still runs writes its rules again within seconds. While kubeproxy runs, nothing is removed.",
    [],
)


def main(argv: Sequence[str]) -> int:
    """Clean up; return 1 when something could not be removed, or an agent is at work."""
    COMMAND_LINE.parse_or_exit(argv, check=dict)
    try:
        with alone(PROGRAMMING, "kubeproxy cleanup"):
            complaints = remove(whole_kernel(), Family, None).complaints
    except Taken as taken:
        print(f"Error: {taken}", file=sys.stderr)
        return 1
    for complaint in complaints:
        print(f"Error: {complaint}", file=sys.stderr)
    if complaints and os.geteuid():
        print("This needs root.", file=sys.stderr)
    return 1 if complaints else 0
