"""User-Mode Linux machines: booted, commanded, and ended in every way. Each boot takes a second or two."""

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy.lab.machine import client
from kubeproxy.lab.machine.machine import Machine, arguments
from kubeproxy.lab.machine.spec import MachineError, Nic, Spec
from tests.waiting import until

pytestmark = pytest.mark.e2e

MODULE = [sys.executable, "-m", "kubeproxy.lab.machine"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def machine(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    spec = Spec(name="one", memory="128M", shared=(str(shared),))
    with Machine.boot(spec, tmp_path_factory.mktemp("machine")) as booted:
        yield booted


def kernels(directory: Path) -> list[int]:
    """Return the host's processes of the machine in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"uml_dir={directory}/" in (process / "cmdline").read_text():
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_command_has_its_input_output_errors_and_status(machine: Machine) -> None:
    done = machine.run(["sh", "-c", 'cat; echo "$WHO" >&2; exit 3'], stdin=b"hello", env={"WHO": "me"})
    assert (done.status, done.stdout, done.stderr, done.out_of_memory) == (3, b"hello", b"me\n", False)
    assert machine.run(["no-such-program"]).status == 127
    assert machine.run(["sh", "-c", "kill -9 $$"]).status == 137


def test_much_goes_in_and_out_at_once_for_many(machine: Machine) -> None:
    """A line whose buffer fills up would be deaf from then on."""
    data, wrong = os.urandom(300_000), []

    def one() -> None:
        if machine.run(["cat"], stdin=data).stdout != data:
            wrong.append("differs")

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_what_is_shared_is_written_to_the_host(machine: Machine, shared: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    assert machine.run(["sh", "-c", f"echo a >{shared}/a; echo b >{private}; cat {private}"]).stdout == b"b\n"
    assert (shared / "a").read_text() == "a\n"
    assert not private.exists()


def test_modules_load_by_name_and_by_themselves(machine: Machine) -> None:
    done = machine.run(["sh", "-c", "modprobe ip_vs && ip link add d0 type dummy && ipvsadm -ln"])
    assert (done.status, done.stderr) == (0, b"")
    assert b"IP Virtual Server" in done.stdout


def test_a_command_that_takes_too_long_is_killed(machine: Machine) -> None:
    with pytest.raises(TimeoutError, match=r"did not end within 0\.3 s"):
        machine.run(["sleep", "1234"], timeout=0.3)
    until(lambda: machine.run(["pgrep", "-f", "sleep 1234"]).status == 1)


def test_want_of_memory_is_told(machine: Machine) -> None:
    """The kernel is asked to end the largest process, as it does itself when it finds no other way."""
    largest = "b = b'x' * 30_000_000; open('/proc/sysrq-trigger', 'w').write('f'); import time; time.sleep(60)"
    done = machine.run(["python3", "-c", largest], timeout=30)
    assert (done.status, done.out_of_memory) == (137, True)


def test_a_terminal_is_one(machine: Machine) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*MODULE, "exec", "-t", str(machine.directory), "sh", "-c", "tty; exec cat"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        for wait_for, then in ((b"/dev/pts/", b"abc\n"), (b"abc\r\nabc", b"\x03")):
            while wait_for not in seen:
                seen += os.read(ours, 1000)
            os.write(ours, then)
        assert process.wait(10) == 128 + signal.SIGINT
    os.close(ours)


def test_a_network_device_is_a_tap_in_the_callers_namespace(tmp_path: Path) -> None:
    name = f"kpt-uml-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for line in ("tuntap add dev t1 mode tap", "addr add 192.0.2.1/24 dev t1", "link set t1 up"):
            subprocess.run(["ip", "-n", name, *line.split()], check=True)
        spec = Spec(memory="64M", nics=(Nic("t1", "02:00:00:00:00:01"),), netns=f"/run/netns/{name}")
        with Machine.boot(spec, tmp_path) as machine:
            up = "ip addr add 192.0.2.2/24 dev vec0 && ip link set vec0 up && ping -c1 -W5 192.0.2.1"
            assert machine.run(["sh", "-c", up]).status == 0
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_nothing_stays_when_the_one_who_booted_it_is_killed(tmp_path: Path) -> None:
    boot = (
        "import sys, time; from kubeproxy.lab.machine.machine import *\n"
        "m = Machine.boot(Spec(memory='64M'), sys.argv[1]); print('up', flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", boot, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert kernels(tmp_path)
        process.kill()
    until(lambda: not kernels(tmp_path))


def test_nothing_stays_when_its_warden_is_killed_and_commands_say_so(tmp_path: Path) -> None:
    with Machine.boot(Spec(memory="64M"), tmp_path) as machine:
        os.kill(machine.pid, signal.SIGKILL)
        until(lambda: not kernels(tmp_path))
        assert not machine.alive
        with pytest.raises(MachineError, match="no machine runs in"):
            client.run(tmp_path, ["true"])


def test_a_kernel_that_panics_under_a_command_tells_its_last_words(tmp_path: Path) -> None:
    with Machine.boot(Spec(memory="64M"), tmp_path) as machine:
        with pytest.raises(MachineError, match=r"its kernel panicked\n(.*\n)*.*sysrq triggered crash"):
            machine.run(["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60"])
    assert not kernels(tmp_path)


@pytest.mark.parametrize(
    ("spec", "path", "why"),
    [
        (Spec(), "/nowhere", "no linux.uml on this machine; install Debian's package user-mode-linux"),
        (Spec(boot_seconds=0.05), None, "did not come up within 0.05 s"),
        (Spec(shared=("/no/such/directory",)), None, "could not be set up: mount"),
        (Spec(memory="8M"), None, "ended at boot|did not come up"),
    ],
)
def test_a_machine_that_cannot_be_had_says_why(
    spec: Spec, path: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path is not None:
        monkeypatch.setenv("PATH", path)
    with pytest.raises(MachineError, match=why):
        Machine.boot(spec, tmp_path)
    assert not kernels(tmp_path)


def test_a_machine_with_a_command_ends_with_it_and_passes_on_its_output_and_status(tmp_path: Path) -> None:
    argv = [*arguments(Spec(memory="64M"), tmp_path), "--", "sh", "-c", "uname -r; exit 9"]
    done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (9, "6.1.176\n", "")
