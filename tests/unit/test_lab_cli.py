"""The lab's command line: what is refused, in which words, with which status."""

import subprocess
import sys
from pathlib import Path

import pytest

from kubeproxy.lab import cli, identities, layout, network, programs
from kubeproxy.lab import exec as lab_exec
from kubeproxy.lab.state import Lab, LabError, Owner, Record
from kubeproxy.options import BUILT_MODES
from kubeproxy.store.etcd_access import EtcdAccess
from kubeproxy.store.kubeconfig import load

pytestmark = pytest.mark.unit

OVERLAY = EtcdAccess(cafile="/run/lab/pki/ca.crt", username="flannel", password="s3cret")


@pytest.fixture(autouse=True)
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBEPROXY_LAB_DIR", str(tmp_path / "labs"))
    return tmp_path / "labs"


def lab(directory: Path, nodes: int = 2) -> Lab:
    record = Record(name="mylab", nodes=nodes, mode="iptables", overlay="vxlan", api_port=4711, creator=Owner())
    return Lab(directory=directory, record=record)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "required: COMMAND"),
        ("bogus", "invalid choice: 'bogus'"),
        ("up --nods 3", "usage: kubeproxy lab up"),
        ("up --node 3", "unrecognized arguments: --node"),
        ("up --nodes 0", "'0' is not a number from 1 to 100"),
        ("up --nodes -1", "nodes"),
        ("up --nodes 1e3", "'1e3' is not a number"),
        ("up --mode userspace", "invalid choice: 'userspace'"),
        ("up --overlay carrier-pigeon", "invalid choice"),
        ("up extra", "unrecognized arguments: extra"),
        ("up -- ls", "takes no command after --"),
        ("exec mylab node1", "put the command to run after --"),
        ("exec mylab -- ls", "the following arguments are required: TARGET"),
        ("down mylab --all", "not allowed with"),
    ],
)
def test_a_wrong_line_gets_the_usage_and_status_2(
    line: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main(line.split())
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("line", ["env nosuch", "status nosuch", "exec nosuch node1 -- true"])
def test_an_unknown_lab_is_said_to_be_unknown(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 1
    assert capsys.readouterr().err == 'ERROR: no lab found with the name "nosuch"\n'


def test_an_invalid_name_is_refused_before_anything_is_made(
    labs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["up", "--name", "../x"]) == 1
    assert '"../x" is not a valid lab name' in capsys.readouterr().err
    assert not labs.exists()


def test_deleting_what_is_not_there_is_no_failure(labs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down", "nosuch"]) == 0
    assert cli.main(["down", "--all"]) == 0
    assert capsys.readouterr().err == 'No lab "nosuch"; nothing to delete.\nNo labs found.\n'
    assert not labs.exists()


def test_a_lab_has_every_mode_that_is_built() -> None:
    assert set(cli.MODES) == set(BUILT_MODES)


def test_the_command_line_loads_no_client_of_the_api() -> None:
    """A tutorial is a row of `lab exec`, each a start of the interpreter."""
    check = "import sys; import kubeproxy.lab.cli, kubeproxy.lab.exec; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_help_stands_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("", "up", "demo", "exec", "env", "status", "list", "down"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([*command.split(), "--help"])
        assert f"usage: kubeproxy lab {command}".strip() in capsys.readouterr().out


def test_a_pod_is_named_with_or_without_its_namespace() -> None:
    assert lab_exec.parse_pod("pod/a", "ns") == ("ns", "a")
    assert lab_exec.parse_pod("pod/kube-system/a", "ns") == ("kube-system", "a")
    with pytest.raises(LabError, match="is not pod/NAME"):
        lab_exec.parse_pod("pod/a/b/c", "ns")


def test_a_pods_process_is_found_on_any_node(tmp_path: Path) -> None:
    there = layout.pod_directory("node2", "default", "web", tmp_path)
    there.mkdir(parents=True)
    (there / "pid").write_text("77\n")
    assert lab_exec.find_pod(lab(tmp_path), "default", "web") == ("node2", 77)
    for namespace, name in (("default", "other"), ("other", "web"), ("default", ".."), ("default", "../x")):
        with pytest.raises(LabError, match="not found in namespace"):
            lab_exec.find_pod(lab(tmp_path), namespace, name)
    with pytest.raises(LabError, match="not a valid"):
        lab_exec.find_pod(lab(tmp_path), "../..", "web")


def test_every_machine_has_an_address_of_its_own() -> None:
    nodes = layout.node_names(layout.MAX_NODES)
    addresses = [layout.machine_address(machine) for machine in network.machines(nodes)]
    assert len(set(addresses)) == len(addresses)
    assert layout.machine_address("node1") == "192.168.56.11"
    assert layout.GATEWAY not in addresses


def test_only_the_outside_has_no_way_but_the_lan() -> None:
    assert "default" not in network.machine_commands("outside")
    assert "route add default via 192.168.56.1" in network.machine_commands("node1")
    assert "route add unreachable default" in network.lan_commands(("node1",))


def test_programs_write_only_below_the_labs_directory() -> None:
    for spec in (
        *programs.of_nodes(("node1", "node2"), "iptables", OVERLAY),
        programs.apiserver(5),
        programs.controllers(),
    ):
        assert not any("s3cret" in word for word in spec.argv)
        paths = [
            word.partition("=")[2].removeprefix("sqlite:") for word in spec.argv if "=/" in word or ":/" in word
        ]
        for path in paths:
            assert path.startswith(("/run/lab/", "https://192.168.56.10:", "/coreos.com/network"))


def test_exec_from_a_directory_that_is_gone_starts_at_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert lab_exec.working_directory() == str(gone)
    gone.rmdir()
    assert lab_exec.working_directory() == "/"


def test_the_kubeconfig_is_private_and_names_the_hosts_port(tmp_path: Path) -> None:
    identities.write(lab(tmp_path))
    config = tmp_path / "kubeconfig"
    assert load([config]).cluster.server == "https://127.0.0.1:4711"
    assert (tmp_path / "credentials").stat().st_mode & 0o777 == 0o700
    for path in (config, *(tmp_path / "credentials").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600


def test_every_program_has_credentials_that_are_there(tmp_path: Path) -> None:
    identities.write(lab(tmp_path))
    specs = (*programs.of_nodes(layout.node_names(2), "iptables", OVERLAY), programs.controllers())
    for word in (word for spec in specs for word in spec.argv if word.startswith("--kubeconfig=")):
        assert (tmp_path / Path(word.partition("=")[2]).relative_to(layout.INSIDE)).is_file()
