"""The `kubeproxy` command: pick the subcommand, hand it its arguments, print what went wrong.

Without a subcommand it is the node agent and takes kube-proxy's flags. Subcommands are imported only when
asked for, so that `kubeproxy lab exec` starts fast.
"""

import sys
from collections.abc import Sequence

from kubeproxy.starting import run_command

COMMANDS = {
    "apiserver": ("kubeproxy.apiserver.cli", "serve the Kubernetes API over a store"),
    "lab": ("kubeproxy.lab.cli", "run a multi-node lab on this machine"),
    "status": ("kubeproxy.status", "show what the agent on this node has programmed"),
    "trace": ("kubeproxy.trace.cli", "say what becomes of a packet on this node, and why"),
    "cleanup": ("kubeproxy.cleanup", "remove all of kubeproxy's kernel state from this node"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kubeproxy ARGV` and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["help"], ["version"]):
        arguments[:1] = [f"--{arguments[0]}"]
    module, rest = "kubeproxy.agent", arguments
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in COMMANDS:
            print(f'Error: unknown command {arguments[0]!r} for "kubeproxy"', file=sys.stderr)
            print(
                f"Commands: {', '.join(COMMANDS)}; run 'kubeproxy --help' for the agent's flags", file=sys.stderr
            )
            return 1
        module, rest = COMMANDS[arguments[0]][0], arguments[1:]
    return run_command(module, rest)
