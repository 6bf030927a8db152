"""The machine has what ipvs mode needs of a kernel; everything else in this directory builds on that."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

NODE = "fit"
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh")


def run(*argv: str, text: str = "") -> str:
    done = subprocess.run(argv, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def node():
    """A network namespace of the guest."""
    run("ip", "netns", "add", NODE)
    run("ip", "-n", NODE, "link", "set", "lo", "up")
    yield ("ip", "netns", "exec", NODE)
    run("ip", "netns", "del", NODE)


def test_this_is_a_kernel_of_its_own() -> None:
    assert os.uname().nodename == "tests"
    assert Path("/proc/cpuinfo").read_text().count("User Mode Linux") == 1


def test_what_is_written_stays_inside() -> None:
    assert "overlay / overlay" in Path("/proc/mounts").read_text()


def test_ip_vs_answers_ipvsadm_in_a_namespace(node: tuple[str, ...]) -> None:
    run("modprobe", "ip_vs")
    run(*node, "ipvsadm", "-A", "-t", "10.96.0.1:80", "-s", "rr")
    run(*node, "ipvsadm", "-a", "-t", "10.96.0.1:80", "-r", "10.244.0.1:80", "-m")
    assert "-a -t 10.96.0.1:80 -r 10.244.0.1:80 -m" in run(*node, "ipvsadm", "-Sn")
    assert "10.96.0.1:80" not in run("ipvsadm", "-Sn")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_of_kube_proxy_is_there(node: tuple[str, ...], scheduler: str) -> None:
    run(*node, "ipvsadm", "-A", "-u", "[fd00::1]:53", "-s", scheduler)


def test_a_dummy_device_can_hold_local_routes(node: tuple[str, ...]) -> None:
    run(*node, "ip", "link", "add", "kube-ipvs0", "up", "type", "dummy")
    run(*node, "ip", "route", "add", "local", "10.96.0.1/32", "dev", "kube-ipvs0")
    assert "10.96.0.1" in run(*node, "ip", "route", "show", "table", "local", "dev", "kube-ipvs0")


@pytest.mark.parametrize(
    ("program", "family", "entry"), [("iptables", "inet", "10.96.0.1,80"), ("ip6tables", "inet6", "fd00::1,80")]
)
def test_marks_are_mapped_from_sets(node: tuple[str, ...], program: str, family: str, entry: str) -> None:
    run(*node, "ipset", "create", "SHORT", "hash:ip,port", "family", family, "skbinfo")
    run(*node, "ipset", "add", "SHORT", entry, "skbmark", "0x6b000001/0xffffbfff")
    legacy = f"{program}-legacy"
    run(*node, legacy, "-t", "mangle", "-A", "OUTPUT", "-j", "SET", "--map-set", "SHORT", "dst,dst", "--map-mark")
    run(*node, legacy, "-A", "INPUT", "-m", "set", "--match-set", "SHORT", "dst,dst", "-j", "ACCEPT")
    assert "--map-set SHORT dst,dst --map-mark" in run(*node, legacy, "-t", "mangle", "-S", "OUTPUT")


def test_this_kernel_has_no_nftables(node: tuple[str, ...]) -> None:
    """What does without nftables is shown by being here."""
    done = subprocess.run([*node, "nft", "add", "table", "ip", "x"], capture_output=True, check=False)
    assert done.returncode != 0


def test_ipv6_is_loaded() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM):
        pass
