"""The kubectl that the tests run: the one beside this Python, else the machine's."""

import shutil
import sys
from pathlib import Path

import pytest


def kubectl_binary() -> str:
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed")
    return found
