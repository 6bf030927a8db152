"""vagrant/: the Vagrantfile as Debian's Vagrant reads it, without a hypervisor, and settings that it refuses."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).resolve().parents[2]
READER = Path(__file__).with_name("vagrant_config.rb")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of vagrant/: Vagrant writes beside its Vagrantfile."""
    if shutil.which("vagrant") is None:
        pytest.skip("there is no vagrant")
    shutil.copytree(PROJECT / "vagrant", tmp_path / "vagrant", ignore=shutil.ignore_patterns(".vagrant", ".join"))
    return tmp_path / "vagrant"


def run(directory: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "VAGRANT_HOME": str(directory.parent / "home"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",  # It would ask the network for a newer Vagrant.
        "VAGRANT_CWD": str(directory),
    }
    return subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)


def change(directory: Path, **values: Any) -> None:
    path = directory / "settings.yaml"
    settings = yaml.safe_load(path.read_text()) | values
    path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))


def machines(directory: Path) -> dict[str, Any]:
    done = run(directory, "ruby", str(READER), str(directory))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vagrant_finds_it_valid(directory):
    done = run(directory, "vagrant", "validate", "--ignore-provider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


def test_every_machine_is_made_as_the_settings_say(directory):
    change(directory, nodes=3, network="10.20.30", node={"cpus": 2, "memory": 1500}, mode="iptables")
    read = machines(directory)
    assert read["primary"] == "store"
    made = read["machines"]
    assert {name: each["addresses"] for name, each in made.items()} == {
        "store": ["10.20.30.10"],
        "node1": ["10.20.30.11"],
        "node2": ["10.20.30.12"],
        "node3": ["10.20.30.13"],
    }
    assert ["modifyvm", "id", "--memory", "1500"] in [list(map(str, c)) for c in made["node2"]["customizations"]]
    assert made["node3"]["provisioners"] == [["provision-node", "10.20.30.13"]]
    (store,) = made["store"]["provisioners"]
    assert store[:3] == ["provision-store", "10.20.30.10", "node1 node2 node3"]
    assert store[store.index("--mode") + 1] == "iptables"


def test_a_join_file_goes_from_the_store_to_its_node_alone(directory):
    made = machines(directory)["machines"]
    assert set(made["store"]["triggers"]) == {"up", "provision", "reload"}
    fetched = {Path(source).name: Path(target) for source, target in made["store"]["fetched"]}
    assert set(fetched) == {"node1", "node2"}
    for node in fetched:
        folder = made[node]["folders"]["/home/vagrant/join"]
        assert (directory / folder["host"]).resolve() == fetched[node].parent
        assert (directory / folder["host"]).stat().st_mode & 0o077 == 0
    assert "/home/vagrant/join" not in made["store"]["folders"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"nodes": 0}, "nodes: must be a number from 1 to 100"),
        ({"nodes": "2"}, "nodes: must be"),
        ({"mode": "userspace"}, "mode: must be one of iptables, ipvs"),
        ({"network": "192.168.56.0/24"}, "network: must be three bytes"),
        ({"node": {"cpus": 1}}, "node: must be {cpus: NUMBER, memory: MIB}"),
        ({"domain": "Cluster Local"}, "domain: must be a DNS domain"),
        ({"pod_network": "10.244"}, "pod_network: must be a network"),
        ({"box": None}, "box: must be the name of a box"),
        ({"colour": "red"}, "colour: unknown"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(directory, values, complaint):
    change(directory, **values)
    ask = 'require "./settings"; Lab::Settings.new("settings.yaml")'
    done = run(directory, "ruby", "-e", ask)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_the_settings_are_what_install_node_takes(directory):
    ask = 'require "./settings"; puts Lab::Settings.new("settings.yaml").flags'
    flags = run(directory, "ruby", "-e", ask).stdout.split()
    help_text = subprocess.run(
        [PROJECT / "scripts/install-node", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert [flag for flag in flags if flag.startswith("--") and f"  {flag} " not in help_text] == []
