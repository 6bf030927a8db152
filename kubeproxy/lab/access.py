"""How a lab's programs reach the API server.

Apart from identities.py, which makes the credentials: of all these programs, each a process that a lab waits for,
only the launcher needs what signs certificates.
"""

import argparse
import os

from kubeproxy.access import find_access
from kubeproxy.clock import SystemClock
from kubeproxy.store.credentials import Access


def api_access(kubeconfig: str | os.PathLike[str] = "", server: str = "") -> Access:
    """Return how to reach the API server that a kubeconfig, or a plain URL, names. Raises KubeconfigError."""
    found = find_access(SystemClock(), kubeconfig=os.fspath(kubeconfig), master=server)
    assert found is not None
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a program's command line say which API server it speaks to."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--kubeconfig", default="", help="the file with the API server and our credentials")
    group.add_argument("--server", default="", help="the API server's URL, where it asks for no credentials")
