"""A lab whose nodes are User-Mode Linux machines: the demo on three of them, and one of two with a broken one.

Both take a boot, and a boot half a minute: what can be asked of one lab is asked of one.
"""

import errno
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab_bed import COMMAND, Labs, host_sight, leaked
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BROKEN = """#!/bin/sh
# node2 has no luck.
for word; do
    if [ "$word" = umid=node2 ]; then
        echo "Kernel panic - not syncing: this kernel is broken"
        exit 6
    fi
done
exec {kernel} "$@"
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers:
    - {name: main, image: x, command: [sh, -c, "echo hello from $(uname -r); exec sleep infinity"]}
"""


def test_the_demo_holds_on_three_machines_in_ipvs_mode(tmp_path: Path) -> None:
    labs, before = Labs(tmp_path / "kubeproxy/labs"), host_sight()
    began = time.monotonic()
    shown = labs.run("demo", "--vm", "uml", "--nodes", "3", "--mode", "ipvs", timeout=240)
    took = time.monotonic() - began
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "everything held" in shown.stdout
    assert "node port on node3 from outside" in shown.stdout
    assert took < 120
    assert not labs.processes()
    assert not labs.directory.parent.exists()
    assert not leaked(before)


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    """A lab of two machines, of which the second never boots."""
    before = host_sight()
    programs = tmp_path_factory.mktemp("programs")
    kernel = shutil.which("linux.uml")
    assert kernel
    (programs / "linux.uml").write_text(BROKEN.format(kernel=kernel))
    (programs / "linux.uml").chmod(0o755)
    labs = Labs(tmp_path_factory.mktemp("machines") / "kubeproxy/labs")
    labs.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    yield labs
    labs.run("down", "--all")
    assert not labs.processes()
    assert not labs.directory.parent.exists()
    assert not leaked(before)


@pytest.fixture(scope="module")
def made(labs: Labs) -> subprocess.CompletedProcess[str]:
    """What `lab up` said."""
    return labs.run("up", "--name", "vms", "--vm", "uml", timeout=240)


@pytest.fixture(scope="module")
def pod(labs: Labs, made: subprocess.CompletedProcess[str]) -> str:
    """A pod on node1, running."""
    labs.kubectl("vms", "apply", "-f", "-", stdin=POD)
    labs.kubectl("vms", "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    return "pod/web"


def row(labs: Labs, program: str) -> tuple[int, int, str]:
    """Return the host's number, the restarts and the state of a program; 0 when it does not run."""
    shown = labs.run("status", "vms").stdout
    found = re.search(rf"{program} +(\d+|-) +(\d+) +(\S.*?) *$", shown, re.MULTILINE)
    assert found, shown
    return int(found[1].replace("-", "0")), int(found[2]), found[3]


def test_a_machine_that_does_not_boot_is_told_and_the_rest_stays(
    labs: Labs, made: subprocess.CompletedProcess[str]
) -> None:
    assert made.returncode == 1
    assert "node2 is down: " in made.stdout
    assert "| Kernel panic - not syncing: this kernel is broken" in made.stdout
    assert "the lab runs without some of its nodes" in made.stderr
    status = labs.run("status", "vms")
    assert status.returncode == 0
    assert "nodes are machines (uml)" in status.stdout
    assert "node2 is down; its console's last lines:" in status.stdout
    assert "| Kernel panic" in status.stdout
    assert row(labs, "machine-node2")[2].startswith("Restarting (cannot be started: machine node2 ended at boot")
    nodes = labs.kubectl("vms", "get", "nodes", "--no-headers").split()
    assert nodes[:2] == ["node1", "Ready"]
    refused = labs.exec("vms", "node2", "true")
    assert refused.returncode == 1
    assert "node2 cannot be reached" in refused.stderr


def test_commands_run_on_a_machine_and_in_its_pods(labs: Labs, pod: str) -> None:
    host = os.uname().release
    on_node = labs.exec("vms", "node1", "sh", "-c", "uname -nr; ip -o -4 addr show eth0; getent hosts node2")
    assert on_node.stdout.splitlines()[0].split()[0] == "node1"
    assert host not in on_node.stdout
    assert "192.168.56.11/24" in on_node.stdout
    assert "192.168.56.12" in on_node.stdout
    in_pod = labs.exec("vms", pod, "sh", "-c", "uname -nr; cat; exit 7", stdin="a\nb")
    assert in_pod.returncode == 7
    assert in_pod.stdout.startswith("web ")
    assert in_pod.stdout.endswith("\na\nb")
    assert labs.exec("vms", pod, "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert labs.exec("vms", pod, "nosuchprogram").returncode == 127
    assert labs.exec("vms", "node1", "kubectl", "get", "nodes", "-o", "name").stdout.split() == ["node/node1"]
    outside = labs.exec("vms", "outside", "ping", "-c1", "-W5", "192.168.56.11")
    assert outside.returncode == 0, outside.stdout + outside.stderr


def test_a_packet_is_sent_and_traced_on_a_machine(labs: Labs, pod: str) -> None:
    found = labs.exec("vms", "node1", "kubeproxy", "trace", pod, "10.96.0.10:9153", "--live", "-o", "json")
    assert found.returncode == 0, found.stdout + found.stderr
    assert json.loads(found.stdout)["live"]["differences"] == []


def test_a_reader_who_has_seen_enough_ends_a_command_on_a_machine(labs: Labs, pod: str) -> None:
    printing = labs.start("exec", "vms", "node1", "--", "seq", "9999999")
    assert printing.stdout is not None
    assert printing.stdout.readline() == "1\n"
    printing.stdout.close()
    assert printing.wait(60) == 128 + signal.SIGPIPE


def test_a_pods_output_is_in_its_log_on_the_host(labs: Labs, pod: str) -> None:
    log = labs.directory / "vms/nodes/node1/kubelet/pods/default_web/main.log"
    until(lambda: "hello from" in log.read_text(), "the pod's greeting")
    assert os.uname().release not in log.read_text()
    assert "node node1 is Ready" in (labs.directory / "vms/logs/kubelet-node1.log").read_text()


def test_a_pod_has_a_terminal_of_the_users_size(labs: Labs, pod: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    script = "stty size; test -t 1 && echo on a terminal; read word; echo got $word; exit 5"
    command = (*COMMAND, "exec", "-it", "vms", pod, "--", "sh", "-c", script)
    with subprocess.Popen(command, env=labs.environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = _read_until(ours, b"on a terminal")
        os.write(ours, b"word\r")
        shown += _read_until(ours, b"got word")
        assert process.wait(timeout=30) == 5
    os.close(ours)
    assert b"33 101" in shown


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    shown = b""
    while wanted not in shown:
        try:
            data = os.read(descriptor, 4096)
        except OSError as error:
            if error.errno != errno.EIO:  # its other end is closed
                raise
            data = b""
        assert data, shown
        shown += data
    return shown


def test_a_machine_that_dies_boots_again_with_its_pods(labs: Labs, pod: str) -> None:
    pid, restarts, _ = row(labs, "machine-node1")
    os.kill(pid, signal.SIGKILL)
    until(lambda: row(labs, "machine-node1")[1] == restarts + 1, "the machine is started again", 60)
    until(lambda: row(labs, "machine-node1")[2] == "Running", "the machine has booted again", 60)
    # The API knows the pod as running all the while; what tells is that a command runs in it again.
    until(lambda: labs.exec("vms", pod, "hostname").stdout == "web\n", "the pod runs again", 90)
    until(lambda: row(labs, "kubeproxy-node1")[2] == "Running", "the agent runs again", 60)


def test_down_ends_a_machine_that_hangs(labs: Labs, made: subprocess.CompletedProcess[str]) -> None:
    kernels = [pid for pid in labs.processes() if Path(f"/proc/{pid}/comm").read_text().startswith("linux")]
    assert kernels
    for pid in kernels:
        os.kill(pid, signal.SIGSTOP)
    down = labs.run("down", "vms")
    assert (down.returncode, down.stdout) == (0, 'Deleted lab "vms".\n')
    assert not labs.processes()


def test_an_interrupted_boot_leaves_nothing(labs: Labs) -> None:
    with labs.start("up", "--name", "short", "--vm", "uml", "--nodes", "1") as maker:
        until(lambda: (labs.directory / "short/machines/node1/console.log").exists(), "the machine boots")
        maker.send_signal(signal.SIGINT)
        maker.wait(timeout=60)
    assert maker.returncode == 130
    assert not labs.processes()
    assert not (labs.directory / "short").exists()
