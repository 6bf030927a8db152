"""The machine has what no other of ours has: a kernel with IPVS, nftables and iptables in both flavours."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_bed import UML_KERNEL

NODE = "fit"


def run(*argv: str) -> str:
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def node() -> Iterator[tuple[str, ...]]:
    run("ip", "netns", "add", NODE)
    yield ("ip", "netns", "exec", NODE)
    run("ip", "netns", "del", NODE)


def test_this_is_a_kernel_of_its_own_and_the_hosts_files() -> None:
    assert os.uname().nodename == "tests"
    if os.environ.get(UML_KERNEL):
        assert "User Mode Linux" in Path("/proc/cpuinfo").read_text()
    else:
        assert "QEMU" in Path("/sys/class/dmi/id/sys_vendor").read_text()
    assert "overlay / overlay" in Path("/proc/mounts").read_text()


def test_it_has_ipvs_and_nftables_both(node: tuple[str, ...]) -> None:
    run(*node, "ipvsadm", "-A", "-t", "[fd00::1]:80", "-s", "rr")
    run(*node, "nft", "add table ip6 t; add map ip6 t m { type ipv6_addr . inet_service : verdict; }")
    for flavour in ("legacy", "nft"):
        run(
            *node,
            f"ip6tables-{flavour}",
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            "-p",
            "tcp",
            "-j",
            "DNAT",
            "--to",
            "[::1]:80",
        )
