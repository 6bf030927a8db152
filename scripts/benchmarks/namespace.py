"""Running a benchmark's inner half in a network namespace of its own."""

import json
import os
import subprocess
import sys
from typing import Any


def run_inside(file: str, *arguments: str) -> Any:
    """Run a Python file in a new network namespace and return the JSON that it prints."""
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    argv = [*unshare, sys.executable, file, *arguments]
    return json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
