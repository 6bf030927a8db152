"""`kubeproxy cleanup` (and `kubeproxy --cleanup`): take all service-proxy state out of the kernel.

Ours and that of kube-proxy, in all three of its modes, since they share names and whoever cleans up often does
not know what ran before; nobody else's. Works without a configuration, an API server or a running agent, and
with whichever of the iptables programs there are.
"""

import os
import sys
from collections.abc import Sequence

from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import remove
from kubeproxy.flags import CommandLine
from kubeproxy.model.addresses import Family

COMMAND_LINE = CommandLine(
    "kubeproxy cleanup",
    "Remove every trace of kubeproxy and of kube-proxy from this node's kernel. Run it as root, and end them "
    "first: what still runs writes its rules again within seconds.",
    [],
)


def main(argv: Sequence[str]) -> int:
    """Clean up; return 1 when something could not be removed."""
    COMMAND_LINE.parse_or_exit(argv, check=dict)
    complaints = remove(whole_kernel(), Family, None).complaints
    for complaint in complaints:
        print(f"Error: {complaint}", file=sys.stderr)
    if complaints and os.geteuid():
        print("This needs root.", file=sys.stderr)
    return 1 if complaints else 0
