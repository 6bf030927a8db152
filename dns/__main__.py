"""The `clusterdns` command, also `python -m dns`."""

import sys

from kubeproxy.starting import run_command


def main() -> int:
    """Run the command line and return its exit status."""
    return run_command("dns.cli", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
