"""`kubeproxy cleanup` (and `kubeproxy --cleanup`): take all of our kernel state out, and nobody else's.

Works without a configuration, an API server or a running agent, in both iptables flavours, because whoever
cleans up often does not know what ran before.
"""

import sys
from collections.abc import Sequence

from kubeproxy.app import iptables_backend
from kubeproxy.flags import CommandLine
from kubeproxy.kernel.exec import CommandMissing, KernelError
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.addresses import Family

COMMAND_LINE = CommandLine("kubeproxy cleanup", "Remove every trace of kubeproxy from this node's kernel.", [])


def main(argv: Sequence[str]) -> int:
    """Clean up both flavours and families; return 1 when something could not be removed."""
    COMMAND_LINE.parse_or_exit(argv, check=dict)
    failed = False
    for flavour in Flavour:
        for family in Family:
            try:
                iptables_backend(family, flavour).cleanup()
            except CommandMissing:
                continue
            except (KernelError, OSError) as error:
                print(f"Error: IPv{family.value}, {flavour}: {error}", file=sys.stderr)
                failed = True
    return 1 if failed else 0
