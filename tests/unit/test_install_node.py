"""scripts/install-node: what it refuses, the units that it installs, the configuration that it writes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from dns.corefile import parse
from dns.plugins import SETUP
from flannel.flags import FLAGS as FLANNEL_FLAGS
from flannel.netconf import parse_netconf
from kubeproxy import options
from kubeproxy.apiserver.cli import FLAGS as API_FLAGS
from kubeproxy.lab import kubelet

pytestmark = pytest.mark.unit

PROJECT = Path(__file__).resolve().parents[2]
INSTALL = PROJECT / "scripts/install-node"
PARTS = PROJECT / "scripts/deploy/install"
UNITS = sorted((PROJECT / "scripts/deploy/systemd").glob("*.service"))


def install_node(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([INSTALL, *argv], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--role", "both"], "--role must be store or node"),
        (["--address", "10.0.0.1"], "--role must be store or node"),
        (["--role"], "--role needs a value"),
        (["--colour", "red"], "unknown option --colour"),
        (["--role=store", "--mode=userspace"], "--mode userspace is none of"),
        (["--role=store", "--pod-network=10.244.0.1/16"], "is no IPv4 network"),
        (["--role=store", "--pod-network=10.300.0.0/16"], "is no IPv4 network"),
        (["--role=store", "--pod-network=10.244.0.0/26"], "holds no /24"),
        (["--role=store", "--service-network=fd00::/108"], "is no IPv4 network"),
        (["--role=store", "--pod-network=10.0.0.0/8"], "overlap"),
        (["--role=store", "--overlay=ipip"], "--overlay ipip is none of"),
        (["--role=store", "--domain=Cluster_Local"], "is no DNS domain"),
        (["--role=store", "--api-port=443"], "does not run as root"),
        (["--role=store", "--api-port=x"], "is no port"),
        (["--role=store", "--package=/nowhere.whl"], "cannot read /nowhere.whl"),
        (["--role=store", "--wheels=/nowhere"], "is no directory"),
        (["--role=node", "--join=/nowhere"], "cannot read /nowhere"),
        (["--role=node", "--domain=cluster.local"], "--domain is the store's"),
        (["--role=node", "--uninstall"], "--role does not go with --uninstall"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(argv, complaint):
    done = install_node(*argv)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_needs_nothing_and_no_arguments_is_a_mistake():
    assert install_node("--help").returncode == 0
    nothing = install_node()
    assert nothing.returncode == 2
    assert "install-node --role store" in nothing.stderr


@pytest.fixture
def stubbed_units(tmp_path: Path) -> list[str]:
    """The units with programs that exist: nothing is installed on the machine that looks at them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("kubeproxy", "clusterdns", "flanneld", "python", "etcd", "modprobe"):
        (binaries / name).symlink_to("/bin/true")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/kubeproxy/bin", str(binaries))
        (tmp_path / unit.name).write_text(text.replace("/sbin/modprobe", str(binaries / "modprobe")))
    return [str(tmp_path / unit.name) for unit in UNITS]


def test_systemd_finds_nothing_to_say_about_the_units(stubbed_units):
    argv = ["systemd-analyze", "verify", "--man=no", *stubbed_units]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


EXPOSURE = {
    "clusterdns": 1.8,
    "flanneld": 3.0,
    "kubeproxy": 3.5,
    "kubeproxy-apiserver": 1.7,
    "kubeproxy-controllers": 1.7,
    "kubeproxy-etcd": 1.7,
}
"""systemd's own measure, from 0 to 10; the lab's kubelet, which runs anybody's pods, is not in it."""


def test_the_units_stay_as_hardened_as_they_are(stubbed_units):
    for path in stubbed_units:
        name = Path(path).stem
        if name in EXPOSURE:
            argv = ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE[name] * 10:.0f}", path]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, (name, done.stdout[-200:], done.stderr)


def command_line(unit: Path) -> str:
    text = unit.read_text().replace("\\\n", " ")
    return next(line for line in text.splitlines() if line.startswith("ExecStart="))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_gives_flags_that_its_program_has(unit):
    given = set(re.findall(r" --?([a-z-]+)[= ]", command_line(unit) + " "))
    known = {
        "kubeproxy-apiserver": {flag.name for flag in API_FLAGS},
        "flanneld": {flag.name for flag in FLANNEL_FLAGS},
    }.get(unit.stem)
    if known is not None:
        assert given - known == set()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_every_unit_comes_back_however_often_it_ends(unit):
    text = unit.read_text()
    assert "\nRestart=always\n" in text
    assert "\nStartLimitIntervalSec=0\n" in text
    used = set(re.findall(r"\$\{(\w+)\}", text))
    if used:
        assert "\nEnvironmentFile=/etc/kubeproxy/cluster.env\n" in text
    names = re.search(r'SETTINGS="([^"]*)"', INSTALL.read_text())
    assert names is not None
    assert used - {"NODE_ADDRESS", *names[1].split()} == set()


def test_the_kubelets_command_line_is_the_kubelets(capsys):
    with pytest.raises(SystemExit):
        kubelet.main(["--help"])
    help_text = capsys.readouterr().out
    unit = next(unit for unit in UNITS if unit.stem == "kubeproxy-kubelet")
    flags = re.findall(r" (--[a-z-]+)=", command_line(unit))
    assert len(flags) > 5
    assert [flag for flag in flags if flag not in help_text] == []


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The files of a node's /etc/kubeproxy, written by the script's own functions."""
    script = f"""
        set -eu; shopt -s lastpipe; chown() {{ :; }}
        ETC={tmp_path}/etc SETTINGS="NODE_NAME" NODE_NAME=node1 NODE_ADDRESS=192.168.56.11 MODE=iptables
        POD_NETWORK=10.244.0.0/16 OVERLAY=vxlan CLUSTER_DOMAIN=example.org
        . {PARTS}/common.sh; . {PARTS}/node.sh
        write_configuration; first=$changed; write_configuration; echo $first $changed
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["3", "3"], "what is as it should be is not written again"
    return tmp_path / "etc"


def test_the_agent_takes_the_configuration(written):
    given = options.parse([f"--config={written / 'config.yaml'}"])
    assert yaml.safe_load((written / "config.yaml").read_text())["mode"] == "iptables"
    assert given.node_name == "node1"


def test_the_overlay_takes_its_configuration(written):
    assert parse_netconf((written / "net-conf.json").read_bytes()).backend.type == "vxlan"


def test_the_resolver_takes_its_corefile(written):
    path = written / "Corefile"
    (block,) = parse(path.read_text(), file=str(path), environment={})
    assert {directive.name for directive in block.directives} <= set(SETUP)
