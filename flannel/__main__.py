"""The `flanneld` command, also `python -m flannel`."""

import sys

from kubeproxy.starting import run_command


def main() -> int:
    """Run the command line and return its exit status."""
    return run_command("flannel.cli", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
