"""kubeproxy as a fork of a process that has it loaded already, for machines on which loading takes ten seconds.

What is loaded is code alone: each program has its own memory, threads and namespaces, and begins at its `main`.
The process that forks has one thread, reads a line of JSON for each program that is to begin (`WarmProcess`) or
whose end is asked for (a process id), and answers with a line: a process id, or an exit status.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from kubeproxy.kernel.netns import CLONE_NEWNET, enter
from tests.waiting import until

MODULES = ("kubeproxy.agent", "kubeproxy.apiserver.cli", "kubeproxy.apiserver.server")


class WarmProcess:
    """A running `kubeproxy ARGUMENT...`, as much of a `subprocess.Popen` as the tests use."""

    def __init__(
        self, namespace: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self._status: int | None = None
        self._pid: int = _forker().ask(
            {"namespace": namespace, "arguments": arguments, "log": str(log), "environment": dict(environment)}
        )

    def poll(self) -> int | None:
        if self._status is None:
            self._status = _forker().ask(self._pid)
        return self._status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 20) -> int:
        until(lambda: self.poll() is not None, "the program has ended", timeout)
        assert self._status is not None
        return self._status


class _Forker:
    """The process that forks, from the outside. For callers on any thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()

    def ask(self, what: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            print(json.dumps(what), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())


@cache
def _forker() -> _Forker:
    return _Forker()  # It ends with its standard input, that is: with this process.


def _serve() -> NoReturn:
    for module in MODULES:
        importlib.import_module(module)
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            ended, status = os.waitpid(asked, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork() or _run(**asked)
        print(json.dumps(answer), flush=True)
    sys.exit()


def _run(namespace: str, arguments: Sequence[str], log: str, environment: Mapping[str, str]) -> NoReturn:
    from kubeproxy.cli import main

    for number, where in ((0, os.devnull), (1, log), (2, log)):
        os.dup2(os.open(where, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.environ.clear()
    os.environ.update(environment)
    enter(Path("/run/netns", namespace), CLONE_NEWNET)
    status = 1
    try:
        status = main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
