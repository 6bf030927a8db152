"""`python -m dns` is the `clusterdns` command."""

import sys

from dns.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
