"""Ctrl-C while a module is still being loaded, or runs, and a reader who left: an end, and no traceback."""

import os
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


@pytest.mark.parametrize("amount", [1, 1 << 20], ids=["still buffered", "more than a pipe holds"])
def test_a_reader_who_has_seen_enough_ends_the_command_without_a_word(amount: int, tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(f"def main(argv):\n print('x' * {amount})\n return 0")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text("def main(argv):\n raise BrokenPipeError")
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "BrokenPipeError" in done.stderr
