"""Network namespaces of a benchmark's own: no measurement programs the one that it was started in."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from kubeproxy.kernel.netns import CLONE_NEWNET, unshare

T = TypeVar("T")

SETTLE_SECONDS = 0.2
"""The kernel takes a namespace apart in the background; that should not be measured with the next."""
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def alone(file: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python file in a new network namespace."""
    return ["unshare", "-n" if os.geteuid() == 0 else "-rn", sys.executable, file, *arguments]


def run_inside(file: str, *arguments: str) -> Any:
    """Run a Python file in a new network namespace and return the JSON that it prints."""
    done = subprocess.run(alone(file, *arguments), check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


@contextlib.contextmanager
def own_xtables_lock() -> Iterator[None]:
    """Have this process wait for nobody: legacy iptables' lock is the machine's, whatever namespace holds it."""
    with tempfile.NamedTemporaryFile() as lock:
        os.environ["XTABLES_LOCKFILE"] = lock.name
        yield


def fresh() -> None:
    """Move this thread, and those that it starts from now on, into an empty namespace.

    What was programmed before goes with the last socket there.
    """
    unshare(CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    FORWARDING.write_text("1")
    time.sleep(SETTLE_SECONDS)


def elsewhere(work: Callable[[], T]) -> T:
    """Run something in an empty namespace and come back."""
    found: list[T | BaseException] = []

    def inside() -> None:
        try:
            fresh()
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]
