"""A lab as a person uses it: up, kubectl from the host, commands inside, programs killed, down."""

import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.lab_bed import PROJECT, Labs, host_sight, leaked
from tests.waiting import until

pytestmark = pytest.mark.e2e

MANIFESTS = PROJECT / "kubeproxy/lab/manifests"


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    before = host_sight()
    labs = Labs(tmp_path_factory.mktemp("round") / "kubeproxy/labs")
    labs.up("trip")
    assert not leaked(before), "a lab that runs shows on the host"
    yield labs
    down = labs.run("down", "trip")
    assert (down.returncode, down.stdout) == (0, 'Deleted lab "trip".\n')
    assert not labs.processes()
    assert not labs.directory.parent.exists()
    assert not leaked(before)


@pytest.fixture(scope="module")
def nginx(labs: Labs) -> str:
    """The tutorial's objects, ready; returns the cluster IP."""
    for name in ("nginx-deployment.yaml", "nginx-service.yaml"):
        labs.kubectl("trip", "apply", "-f", str(MANIFESTS / name))
    labs.kubectl("trip", "rollout", "status", "deployment/nginx-deployment", "--timeout=60s")
    return labs.kubectl("trip", "get", "svc", "nginx-service", "-o", "jsonpath={.spec.clusterIP}")


def programs(labs: Labs) -> dict[str, tuple[int, int]]:
    """The host's numbers and the restarts of the lab's programs, by name, as `status` shows them."""
    shown = labs.run("status", "trip").stdout
    rows = re.findall(r"([a-z]+(?:-node\d+)?) +(\d+|-) +(\d+) +Run", shown)
    return {name: (int(pid), int(restarts)) for name, pid, restarts in rows if pid != "-"}


def test_status_shows_every_program_by_its_number_on_the_host(labs: Labs) -> None:
    shown = labs.run("status", "trip")
    assert shown.returncode == 0
    assert "trip  Running" in shown.stdout
    found = programs(labs)
    per_node = {f"{name}-node{n}" for name in ("flanneld", "kubelet", "kubeproxy") for n in (1, 2)}
    assert set(found) == {"apiserver", "controllers"} | per_node
    for pid, restarts in found.values():
        os.kill(pid, 0)
        assert restarts == 0
    assert labs.run("list").stdout == "trip\n"


def test_a_name_in_use_is_refused_and_the_lab_goes_on(labs: Labs) -> None:
    again = labs.run("up", "--name", "trip")
    assert again.returncode == 1
    assert again.stderr == 'ERROR: failed to create lab: a lab with the name "trip" already exists\n'
    assert labs.run("status", "trip").returncode == 0


def test_kubectl_on_the_host_sees_the_nodes(labs: Labs) -> None:
    lines = labs.kubectl("trip", "get", "nodes", "-o", "wide").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["node1", "Ready"], ["node2", "Ready"]]
    assert "192.168.56.11" in lines[1]


def test_commands_run_where_they_are_told(labs: Labs) -> None:
    for machine, address in (
        ("node2", "192.168.56.12"),
        ("outside", "192.168.56.200"),
        ("control", "192.168.56.10"),
    ):
        seen = labs.exec("trip", machine, "sh", "-c", "hostname; ip -o -4 addr show eth0; getent hosts node1")
        assert seen.stdout.splitlines()[0] == machine
        assert address in seen.stdout
        assert "192.168.56.11" in seen.stdout
    inside = labs.exec("trip", "node1", "kubectl", "get", "nodes", "-o", "name")
    assert inside.stdout.split() == ["node/node1", "node/node2"]


def test_a_command_keeps_its_status_its_input_and_its_words(labs: Labs) -> None:
    assert labs.exec("trip", "node1", "sh", "-c", "exit 7").returncode == 7
    assert labs.exec("trip", "node1", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert labs.exec("trip", "node1", "nosuchprogram").returncode == 127
    assert labs.exec("trip", "node1", "cat", stdin="a\nb").stdout == "a\nb"
    assert labs.exec("trip", "node1", "echo", "$HOME; x", "'").stdout == "$HOME; x '\n"


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("node3", 'no machine "node3" in the lab: there are node1, node2, control, outside, and pod/NAME'),
        ("pod/nosuch", 'pods "nosuch" not found in namespace "default"'),
        ("pod/../../etc", "is not pod/NAME"),
    ],
)
def test_a_target_that_is_not_there_is_named(labs: Labs, target: str, complaint: str) -> None:
    refused = labs.exec("trip", target, "true")
    assert refused.returncode == 1
    assert complaint in refused.stderr


def test_what_leaves_the_lab_fails_at_once(labs: Labs, nginx: str) -> None:
    pod = labs.kubectl("trip", "get", "pods", "-l", "app=nginx", "-o", "jsonpath={.items[0].metadata.name}")
    for target in ("node1", "outside", f"pod/{pod}"):
        tried = labs.exec("trip", target, "curl", "-sS", "--max-time", "5", "http://198.51.100.1/")
        assert tried.returncode == 7, tried.stderr  # curl's "could not connect", not 28, "timed out"


def test_a_pod_finds_services_by_their_names(labs: Labs, nginx: str) -> None:
    pod = labs.kubectl("trip", "get", "pods", "-l", "app=nginx", "-o", "jsonpath={.items[0].metadata.name}")
    full = "nginx-service.default.svc.cluster.local"
    assert labs.exec("trip", f"pod/{pod}", "dig", "+short", full).stdout == f"{nginx}\n"
    assert labs.exec("trip", f"pod/{pod}", "dig", "+short", "-x", nginx).stdout == f"{full}.\n"
    served = labs.exec("trip", f"pod/{pod}", "curl", "-sS", "--max-time", "5", "http://nginx-service/")
    assert "pod: nginx-deployment-" in served.stdout, served.stderr
    assert labs.exec("trip", f"pod/default/{pod}", "hostname").stdout == f"{pod}\n"


def test_the_node_port_answers_the_machine_outside(labs: Labs, nginx: str) -> None:
    for node in ("192.168.56.11", "192.168.56.12"):
        served = labs.exec("trip", "outside", "curl", "-sS", "--max-time", "5", f"http://{node}:32600/")
        assert "pod: nginx-deployment-" in served.stdout, served.stderr


def test_scaling_by_kubectl_starts_and_stops_pods(labs: Labs, nginx: str) -> None:
    def running() -> int:
        listed = labs.kubectl("trip", "get", "pods", "-l", "app=nginx", "--no-headers")
        return len(re.findall(r"1/1 +Running", listed))

    labs.kubectl("trip", "scale", "deployment", "nginx-deployment", "--replicas=6")
    until(lambda: running() == 6, "six replicas run")
    labs.kubectl("trip", "scale", "deployment", "nginx-deployment", "--replicas=4")
    until(lambda: running() == 4, "four replicas run")


@pytest.mark.parametrize(
    "program", ["kubeproxy-node1", "apiserver", "flanneld-node2", "kubelet-node1", "controllers"]
)
def test_a_killed_program_is_back_and_the_service_answers_meanwhile(labs: Labs, nginx: str, program: str) -> None:
    pid, restarts = programs(labs)[program]
    os.kill(pid, signal.SIGKILL)
    served = labs.exec("trip", "outside", "curl", "-sS", "--max-time", "5", "http://192.168.56.11:32600/")
    assert "pod: nginx-deployment-" in served.stdout, served.stderr
    until(lambda: programs(labs).get(program, (0, 0))[1] == restarts + 1, f"{program} was started again")
    until(lambda: "node1" in labs.kubectl("trip", "get", "nodes"), "the API answers")
