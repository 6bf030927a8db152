"""A User-Mode Linux machine in which systemd runs: what a virtual machine is to scripts/install-node.

systemd is process 1 of a PID namespace, as in a container; the machine's own process 1 is the test's way in. The
host's units stay out: what runs is what the test installs.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from kubeproxy.lab.machine.client import Completed
from kubeproxy.lab.machine.machine import Machine
from kubeproxy.lab.machine.spec import Nic, Spec
from tests.waiting import until

_START = """
rm -rf /etc/systemd/system/*.wants /etc/init.d/* /etc/rc?.d /lib/systemd/system/multi-user.target.wants/*
ip link set vec0 up && ip address add $ADDRESS/24 dev vec0 && ip route add default via $GATEWAY
echo "127.0.0.1 localhost\n127.0.1.1 $(hostname)" >/etc/hosts
hostname >/etc/hostname
: >/etc/tmpfiles.d/tmp.conf  # at its boot systemd would empty /tmp, where this repository may be
setsid unshare --pid --mount --cgroup --fork --mount-proc --propagation shared \
    env container=uml /lib/systemd/systemd --unit=multi-user.target >/run/systemd.log 2>&1 &
"""
_INSIDE = 'exec nsenter --target "$(pgrep -xo systemd)" --pid --mount --cgroup -- "$@"'
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SystemdMachine:
    """One machine, up."""

    def __init__(self, machine: Machine, address: str) -> None:
        self.address = address
        self._machine = machine

    def ask(self, *argv: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Completed:
        """Run a command beside systemd's services."""
        return self._machine.run(
            ["sh", "-c", _INSIDE, "sh", *argv],
            stdin=stdin,
            env={"PATH": PATH, "HOME": "/root", **(env or {})},
            timeout=240,
        )

    def run(self, *argv: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.ask(*argv, stdin=stdin, env=env)
        assert done.status == 0, f"{argv}: {done.status}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def as_user(self, command: str) -> str:
        """Run a command as `vagrant ssh MACHINE -c` does."""
        return self.run("su", "-", "vagrant", "-c", command)

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return what systemd knows of a unit."""
        shown = self.run("systemctl", "show", unit, f"--property={','.join(names)}")
        return dict(line.split("=", 1) for line in shown.splitlines())


@contextlib.contextmanager
def lan(name: str, gateway: str, taps: Sequence[str]) -> Iterator[str]:
    """A namespace with a bridge and a tap for each machine; yield its path."""
    ip = ["ip", "-n", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            ["link", "set", "lo", "up"],
            ["link", "add", "lan0", "type", "bridge", "forward_delay", "0"],
            ["address", "add", f"{gateway}/24", "dev", "lan0"],
            ["link", "set", "lan0", "up"],
        ):
            subprocess.run([*ip, *words], check=True)
        for tap in taps:
            subprocess.run([*ip, "tuntap", "add", "dev", tap, "mode", "tap"], check=True)
            subprocess.run([*ip, "link", "set", tap, "master", "lan0", "up"], check=True)
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextlib.contextmanager
def machines(directory: Path, network: str, numbers: dict[str, int]) -> Iterator[dict[str, SystemdMachine]]:
    """Boot machines by name, with these last bytes of their addresses; systemd is up in each."""
    gateway = f"{network}.1"
    with contextlib.ExitStack() as stack:
        netns = stack.enter_context(lan(f"kp-vm-{os.getpid()}", gateway, list(numbers)))
        made = {}
        for name, number in numbers.items():
            nic = Nic(tap=name, mac=f"02:00:00:00:01:{number:02x}")
            spec = Spec(name=name, memory="1200M", nics=(nic,), netns=netns)
            machine = stack.enter_context(Machine.boot(spec, directory / name))
            address = f"{network}.{number}"
            environment = {"ADDRESS": address, "GATEWAY": gateway, "PATH": PATH}
            started = machine.run(["sh", "-ec", _START], env=environment, timeout=60)
            assert started.status == 0, started.stderr.decode()
            made[name] = SystemdMachine(machine, address)
        for each in made.values():
            until(lambda each=each: b"running" in each.ask("systemctl", "is-system-running").stdout, "systemd", 60)
        yield made
