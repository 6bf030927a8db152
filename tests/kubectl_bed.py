"""The real kubectl against real API server processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.kubectl import kubectl_binary

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = ROOT / "tests" / "manifests"
DEADLINE = 30.0


class Cluster:
    """An API server process on a free loopback port, and kubectl pointed at it.

    Without ``store`` it has a SQLite file of its own. ``more`` are further flags.
    """

    def __init__(self, directory: Path, store: str = "", address: str = "127.0.0.1", port: int = 0, *more: str):
        self.directory = directory
        with socket.socket() as probe:
            probe.bind((address, port))
            self.port = probe.getsockname()[1]
        self.url = f"http://{address}:{self.port}"
        self.store = store or f"sqlite:{directory / 'store.db'}"
        self.flags = (f"--bind-address={address}", f"--port={self.port}", *more)
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "KUBECONFIG": os.devnull, "HOME": str(directory)}

    def arguments(self) -> list[str]:
        return [sys.executable, "-m", "kubeproxy", "apiserver", f"--store={self.store}", *self.flags]

    def start(self) -> None:
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(self.arguments(), cwd=ROOT, stdout=log, stderr=log)
        self.until(lambda: self.kubectl("get", "--raw", "/readyz", check=False) == "ok")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def until(self, holds) -> None:
        end = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)

    def run(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [kubectl_binary(), "-s", self.url, *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            cwd=self.directory,
        )

    def kubectl(self, *words: str, text: str = "", check: bool = True) -> str:
        done = self.run(*words, text=text)
        assert not check or done.returncode == 0, done.stderr + self.log()
        return done.stdout

    def refused(self, *words: str, text: str = "") -> str:
        done = self.run(*words, text=text)
        assert done.returncode != 0, done.stdout
        return done.stderr
