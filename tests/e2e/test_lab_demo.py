"""`kubeproxy lab demo`: all of the tutorial holds, on either overlay, within a minute."""

import os
import time
from pathlib import Path

import pytest

from tests.e2e.lab_bed import Labs, host_sight, leaked

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "flags",
    [(), ("--overlay", "udp"), ("--nodes", "3"), ("--mode", "nftables", "--nodes", "3")],
    ids=["vxlan", "udp", "three-nodes", "nftables"],
)
def test_everything_holds_within_a_minute_and_nothing_is_left(tmp_path: Path, flags: tuple[str, ...]) -> None:
    if "udp" in flags:
        try:
            os.close(os.open("/dev/net/tun", os.O_RDWR))
        except OSError as error:
            pytest.skip(f"--overlay udp needs /dev/net/tun: {error}")
    labs, before = Labs(tmp_path / "kubeproxy/labs"), host_sight()
    began = time.monotonic()
    shown = labs.run("demo", *flags, timeout=120)
    took = time.monotonic() - began
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "everything held" in shown.stdout
    assert "0 failed" in shown.stdout
    assert took < 60
    assert not labs.processes()
    assert not labs.directory.parent.exists()
    assert not leaked(before)
