"""What clients lose while programs are killed: the soak of `scripts/soak`, shorter (--long: in full)."""

import os
import subprocess
import sys

import pytest

from tests.e2e.lab_bed import PROJECT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_killed_programs_cost_no_connection_and_no_request(tmp_path) -> None:
    seconds = 60 if os.environ.get("KUBEPROXY_LONG") else 10
    done = subprocess.run(
        [sys.executable, str(PROJECT / "scripts/benchmarks/soak.py"), "--seconds", str(seconds)],
        env={**os.environ, "KUBEPROXY_LAB_DIR": str(tmp_path / "labs")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
