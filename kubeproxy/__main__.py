"""`python -m kubeproxy` is the `kubeproxy` command."""

import sys

from kubeproxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
