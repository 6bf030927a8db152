"""A lab that is killed, interrupted or refused: what is left, and that up and down recover."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab_bed import COMMAND, Labs, as_nobody, host_sight, leaked
from tests.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def labs(tmp_path: Path) -> Iterator[Labs]:
    labs = Labs(tmp_path / "kubeproxy/labs")
    before = host_sight()
    yield labs
    labs.run("down", "--all")
    assert not labs.processes()
    assert not labs.directory.exists()
    assert not leaked(before)


def init_of(labs: Labs, name: str) -> int:
    return int(json.loads((labs.directory / name / "lab.json").read_text())["init"]["pid"])


def test_up_and_down_recover_from_killed_process_one_and_supervisor(labs: Labs) -> None:
    labs.up("crash", "--nodes", "1")
    os.kill(init_of(labs, "crash"), signal.SIGKILL)
    until(lambda: not labs.processes(), "all processes ended with process 1")
    dead = labs.run("status", "crash")
    assert (dead.returncode, "crash  Dead" in dead.stdout) == (1, True)
    for command in (("env", "crash"), ("exec", "crash", "node1", "--", "true")):
        refused = labs.run(*command)
        assert refused.returncode == 1
        assert "kubeproxy lab up --name crash" in refused.stderr

    labs.up("crash", "--nodes", "1")
    children = Path(f"/proc/{init_of(labs, 'crash')}/task/{init_of(labs, 'crash')}/children").read_text().split()
    (supervisor,) = [p for p in children if b"supervisor" in Path(f"/proc/{p}/cmdline").read_bytes()]
    os.kill(int(supervisor), signal.SIGKILL)
    until(lambda: not labs.processes(), "all processes ended with the supervisor")
    assert labs.run("down", "crash").returncode == 0
    assert labs.run("list").stderr == "No labs found.\n"


@pytest.mark.parametrize("seconds", [0.05, 0.4, 2.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", ["up", "demo"])
def test_what_is_being_made_ends_with_its_maker(
    labs: Labs, command: str, number: signal.Signals, seconds: float
) -> None:
    with labs.start(command, "--name", "short") as maker:
        time.sleep(seconds)  # Not for ordering: anywhere in the start is right.
        maker.send_signal(number)
        maker.wait(timeout=30)
    until(lambda: not labs.processes(), "everything ended")
    if number != signal.SIGKILL:
        # 1: the signal met the interpreter's own start (its site module), before any line of ours.
        assert maker.returncode in (130, -number, 1)
        assert not (labs.directory / "short/lab.json").exists()


def test_no_right_to_make_namespaces_is_said(labs: Labs) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give up root's rights")
    powerless = Labs(
        labs.directory, lambda line: ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--", *line)
    )
    refused = powerless.run("up", "--name", "powerless")
    assert refused.returncode == 1
    assert "ERROR: failed to create lab: no right to make namespaces (unshare" in refused.stderr
    assert "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in refused.stderr
    assert not (labs.directory / "powerless").exists()


def test_programs_that_are_missing_are_named_with_their_packages(labs: Labs, tmp_path: Path) -> None:
    if not (Path("/usr/sbin").is_dir() and Path("/usr/sbin/ip").exists()):
        pytest.skip("tools lie elsewhere on this machine")
    code = (
        "import kubeproxy.lab.checks as c, kubeproxy.lab.cli as cli, sys;"
        f"c.search_path = lambda: {str(tmp_path)!r}; sys.exit(cli.main(['up']))"
    )
    import subprocess

    refused = subprocess.run([COMMAND[0], "-c", code], env=labs.environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "apt-get install iproute2 iptables" in refused.stderr


def test_an_ordinary_user_has_a_lab_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid() != 0:
        pytest.skip("every other test of this file is this one already")
    home = Path("/tmp") / f"kubeproxy-test-nobody-{os.getpid()}"
    home.mkdir()
    os.chown(home, 65534, 65534)
    before = host_sight()
    labs = Labs(home / "kubeproxy/labs", as_nobody)
    try:
        labs.up("mine", "--nodes", "1")
        root = Labs(labs.directory)
        assert labs.exec("mine", "node1", "sh", "-c", "id -u; hostname").stdout == "0\nnode1\n"
        assert root.exec("mine", "node1", "sh", "-c", "id -u; hostname").stdout == "0\nnode1\n"
        assert "Ready" in root.kubectl("mine", "get", "nodes")
        no_tun = labs.run("up", "--name", "tun", "--overlay", "udp")
        if Path("/dev/net/tun").stat().st_mode & 0o006 != 0o006:
            assert no_tun.returncode == 1
            assert "--overlay udp needs /dev/net/tun: Permission denied; run as root" in no_tun.stderr
        assert labs.run("down", "--all").returncode == 0
        assert not labs.processes()
        assert list(home.iterdir()) == []
    finally:
        Labs(labs.directory).run("down", "--all")
        home.rmdir()
    assert not leaked(before)
