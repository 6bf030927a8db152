"""`python -m flannel` is the `flanneld` command."""

import sys

from flannel.cli import main

if __name__ == "__main__":
    sys.exit(main())
