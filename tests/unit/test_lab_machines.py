"""Nodes that are virtual machines: what is booted and set up, and what becomes of one that does not come up."""

import asyncio
import os
from pathlib import Path

import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.dataplane.ipvs import needs
from kubeproxy.lab import checks, guestplan, guestrun, layout, modecheck, network, state, supervisor
from kubeproxy.lab import exec as lab_exec
from kubeproxy.lab.init import Report
from kubeproxy.lab.processes import Running, Spec
from kubeproxy.lab.state import Lab, LabError, Owner, Record, Status

pytestmark = pytest.mark.unit

NODES = ("node1", "node2")


def record(**changes: object) -> Record:
    given = {"name": "mylab", "nodes": 2, "mode": "ipvs", "overlay": "vxlan", "api_port": 4711, "vm": layout.UML}
    return Record(**{**given, "creator": Owner(), **changes})


def test_a_machine_hangs_on_a_tap_of_the_bridge_and_others_on_cables() -> None:
    lines = network.lan_commands(NODES, layout.UML).splitlines()
    for node in NODES:
        assert f"tuntap add dev {node} mode tap" in lines
        assert f"link set {node} master lan0 up" in lines
        assert f"netns add {node}" not in lines
    for machine in ("control", "outside"):
        assert f"netns add {machine}" in lines
    assert "tuntap" not in network.lan_commands(NODES)


class Written:
    """An Exec that keeps what it is to run."""

    def __init__(self) -> None:
        self.entered: list[str] = []

    def run(self, argv: list[str], **_: object) -> None:
        self.entered += [argv[argv.index("-n") + 1]] if "-n" in argv else []


def test_only_namespaces_are_set_up_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    sysctls: list[str] = []
    monkeypatch.setattr(network, "write_sysctls", lambda place, _: sysctls.append(Path(place).name))
    written = Written()
    network.build(written, NODES, layout.UML)  # type: ignore[arg-type]
    assert written.entered == ["control", "outside"]
    assert sysctls == ["net"]


def test_every_node_has_a_machine_of_its_name_with_an_address_of_its_own() -> None:
    machines = [guestplan.machine_of(node) for node in layout.node_names(layout.MAX_NODES)]
    assert len({machine.nics[0].mac for machine in machines}) == layout.MAX_NODES
    assert [machine.name for machine in machines[:2]] == ["node1", "node2"]
    assert machines[0].nics[0].tap == "node1"
    assert machines[0].shared == ("/run/lab",)
    program = guestplan.program_of("node2")
    assert (program.name, program.machine) == ("machine-node2", "node2")
    assert "--directory=/run/lab/machines/node2" in program.argv
    assert "--report" in program.argv
    assert "--lifeline" not in program.argv, "it ends with the lab, not with its input"


def test_the_set_up_makes_of_a_machine_what_a_namespace_is() -> None:
    script = guestplan.set_up_script("node2")
    assert script.startswith("set -e\n")
    assert "link set vec0 name eth0\nlink set lo up\naddress add 192.168.56.12/24 dev eth0" in script
    for name, value in network.NODE_SYSCTLS.items():
        assert f"echo {value} > /proc/sys/{name.replace('.', '/')}" in script
    # The sysctls of IPv6 are there once its module is.
    assert script.index("modprobe -a ipv6") < script.index("net/ipv6")
    assert "cat /run/lab/nodes/node2/hosts > /etc/hosts" in script
    assert "tun" in script.splitlines()[1], "for the UDP overlay, and for packets that a trace sends"


def test_a_command_goes_where_the_pod_is_and_where_the_user_is() -> None:
    words = guestrun.placed(["ls", "-l"], "/work", 77)
    assert words[words.index("kubeproxy.lab.sandbox") + 1 :] == ["--process=77", "--chdir=/work", "--", "ls", "-l"]
    assert "--process=0" not in guestrun.placed(["ls"], "/")


def test_a_pod_of_a_machine_is_entered_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = layout.pod_directory("node2", "default", "web", tmp_path)
    there.mkdir(parents=True)
    (there / "pid").write_text("77\n")
    lab = Lab(directory=tmp_path, record=record(init=state.myself()))
    asked: list[tuple[Path, list[str], bool]] = []

    def attach(held: Path, command: list[str], *, terminal: bool) -> int:
        asked.append((held, command[command.index("kubeproxy.lab.sandbox") + 1 :], terminal))
        return 7

    monkeypatch.setattr(guestrun, "attach", attach)
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.chdir("/")
    assert lab_exec.run(lab, "pod/web", ["true"], terminal=True) == 7
    assert lab_exec.run(lab, "node1", ["false"]) == 7
    machines = tmp_path / "machines"
    assert asked == [
        (machines / "node2", ["--process=77", "--chdir=/", "--", "true"], True),
        (machines / "node1", ["--chdir=/", "--", "false"], False),
    ]
    assert os.environ["KUBECONFIG"] == "/run/lab/kubeconfig.inside"


def test_a_machine_that_is_down_cannot_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "")
    (tmp_path / "machines/node1").mkdir(parents=True)
    lab = Lab(directory=tmp_path, record=record(init=state.myself()))
    with pytest.raises(
        LabError, match=r"node1 cannot be reached: no machine runs in .*kubeproxy lab status mylab"
    ):
        lab_exec.run(lab, "node1", ["true"])


def test_what_is_missing_for_machines_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "search_path", lambda: str(tmp_path))
    monkeypatch.setattr(checks, "TUN", tmp_path / "tun")
    programs, tun, *_ = checks.lacks("vxlan", layout.UML, 3)
    assert "apt-get install iproute2 iptables kmod user-mode-linux" in programs
    assert tun.startswith("--vm uml needs ")
    assert tun.endswith("have root do `modprobe tun`, or use --vm none")
    (without,) = checks.lacks("vxlan", layout.NO_VM, 3)
    assert "user-mode-linux" not in without


def test_machines_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tun").touch()
    monkeypatch.setattr(checks, "TUN", tmp_path / "tun")
    monkeypatch.setattr(checks.shutil, "which", lambda *_, **__: "/bin/x")
    assert checks.lacks("vxlan", layout.UML, 0) == ()
    (line,) = checks.lacks("vxlan", layout.UML, 1 << 30)
    assert "MiB in /dev/shm" in line
    assert "take fewer nodes" in line
    (line,) = checks.lacks("vxlan", layout.UML, 0, "nftables")
    assert "take --vm none" in line
    assert checks.lacks("vxlan", layout.NO_VM, 3, "nftables") == ()


def test_a_mode_that_namespaces_cannot_run_is_told_with_what_can() -> None:
    modecheck.complain_of(())
    with pytest.raises(modecheck.ModeUnavailable, match=r"no ip_vs \(CONFIG_IP_VS\).*--vm uml.*--mode iptables"):
        modecheck.complain_of((needs.IPVS,))


class Refusing:
    """A starter whose machines come up or not."""

    def __init__(self, broken: set[str]) -> None:
        self.broken = broken
        self.up: set[str] = set()

    def machines(self) -> tuple[Spec, ...]:
        return tuple(guestplan.program_of(node) for node in NODES)

    async def start(self, spec: Spec) -> Running:
        if spec.machine in self.broken:
            raise OSError(f"machine {spec.machine} ended at boot (status 6)")
        self.up.add(spec.machine)
        return Forever()

    def is_up(self, node: str) -> bool:
        return node in self.up

    def last_words(self, spec: Spec) -> tuple[str, ...]:
        return ("Kernel panic - not syncing",) if spec.machine in self.broken else ()


class Forever:
    """A program that runs on."""

    pid = 7

    async def wait(self) -> int:
        return await asyncio.get_running_loop().create_future()


class Booting:
    """A supervisor up to the point where its machines have booted, or not."""

    def __init__(self, broken: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.said: list[Report] = []
        self.status = Status()
        monkeypatch.setattr(supervisor, "send", lambda _, report: self.said.append(report))
        monkeypatch.setattr(supervisor.state, "write", self._write)
        self.supervisor = supervisor.Supervisor(record(), None, 0, self.clock)  # type: ignore[arg-type]
        self.supervisor._starter = Refusing(broken)

    def _write(self, _: Path, status: Status) -> None:
        self.status = status

    async def boot(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for spec in self.supervisor._starter.machines():
                self.supervisor._keep(tasks, spec)
            booting = tasks.create_task(self.supervisor._machines_booted())
            for _ in range(100):
                await self.clock.step(0.05)
            for task in asyncio.all_tasks() - {asyncio.current_task(), booting}:
                task.cancel()
            await booting


async def test_a_machine_that_does_not_boot_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Booting({"node2"}, monkeypatch)
    await lab.boot()
    (warning,) = [report.warning for report in lab.said if report.warning]
    assert "node2 is down: Restarting (cannot be started: machine node2 ended at boot (status 6))" in warning
    assert "| Kernel panic - not syncing" in warning
    assert lab.supervisor._up() == ["node1"]
    words = {program.machine: program.last_words for program in lab.status.programs}
    assert words == {"node1": (), "node2": ("Kernel panic - not syncing",)}


async def test_no_machine_at_all_is_no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Booting({"node1", "node2"}, monkeypatch)
    with pytest.raises(ExceptionGroup) as caught:
        await lab.boot()
    text = str(caught.value.exceptions[0])
    assert '"machines booted" was not reached' in text
    assert "node1 is down: Restarting" in text
    assert "node2 is down: Restarting" in text
