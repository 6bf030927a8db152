"""One network namespace without a name or neighbours: that of a thread, gone when the thread is."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kubeproxy.kernel.netns import CLONE_NEWNET, unshare

T = TypeVar("T")


class LoneNamespace:
    """Runs functions and programs inside."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread

    def run(self, function: Callable[[], T]) -> T:
        return self._thread.submit(function).result()

    def execute(self, *argv: str) -> str:
        def work() -> str:
            return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

        return self.run(work)

    def ip(self, *commands: str) -> None:
        for command in commands:
            self.execute("ip", *command.split())


@contextlib.contextmanager
def lone_namespace() -> Iterator[LoneNamespace]:
    with ThreadPoolExecutor(1, initializer=unshare, initargs=(CLONE_NEWNET,)) as thread:
        yield LoneNamespace(thread)
