"""Ctrl-C while a command's module is still being loaded, or runs: an end, and no traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
RUN = "import sys; from kubeproxy.starting import run_command; sys.exit(run_command('command', []))"


@pytest.mark.parametrize(
    ("source", "status"),
    [
        (INTERRUPT, -signal.SIGINT),
        (f"def main(argv):\n exec({INTERRUPT!r})", 130),
        ("def main(argv):\n return 3", 3),
    ],
    ids=["loading", "running", "undisturbed"],
)
def test_an_interrupted_command_ends_without_a_word(source: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(source)
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
