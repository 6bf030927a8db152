"""The lab's kubelet on a real node: what pods get, what a killed kubelet leaves, how a pod ends."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubeproxy.lab
from tests.netns.kubelet_bed import KubeletBed, kubelet_bed, pod
from tests.waiting import until

pytestmark = pytest.mark.netns

WEB = {"ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}
PROBED = {**WEB, "readinessProbe": {"httpGet": {"path": "/index.html", "port": 80}, "periodSeconds": 1}}


@pytest.fixture(scope="module")
def bed() -> Iterator[KubeletBed]:
    with kubelet_bed() as made:
        yield made


def test_a_pod_without_command_answers_on_its_ports(bed: KubeletBed) -> None:
    bed.apply(pod("web", [PROBED]))
    address = until(lambda: bed.ready("web"))
    assert address.startswith("10.244.1.")
    answer = bed.run("curl", "-s", f"http://{address}/index.html").splitlines()
    assert answer[:2] == ["pod: web", "node: n1"]
    # The node speaks to its pods from the subnet's gateway address.
    assert answer[2].startswith("client: 10.244.1.1:")
    assert answer[3:] == ["port: 80", "path: /index.html"]
    datagram = (
        "import socket,sys; s=socket.socket(2,2); s.settimeout(5); s.sendto(bytes(1),(sys.argv[1],53)); "
        "print(s.recv(999))"
    )
    assert "port: 53" in bed.run("python3", "-c", datagram, address)
    route = bed.run("ip", "route", "get", address)
    assert "dev veth" in route
    assert "src 10.244.1.1" in route


def test_a_pod_has_its_files_variables_and_init_containers(bed: KubeletBed) -> None:
    mounts = [{"name": "conf", "mountPath": "/etc/lab-test"}, {"name": "data", "mountPath": "/mnt/data"}]
    script = (
        "cat /etc/lab-test/greeting /mnt/data/first; echo $POD; hostname; cat /etc/resolv.conf /etc/hosts; "
        "ip -o address show dev eth0; ip route; exec sleep 600"
    )
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf", "namespace": "default"}}
    main = {
        "command": ["sh", "-c", script],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": mounts,
        "readinessProbe": {"exec": {"command": ["test", "-f", "/mnt/data/first"]}, "periodSeconds": 1},
    }
    first = {
        "name": "init",
        "image": "x",
        "command": ["sh", "-c", "echo initialised > /mnt/data/first"],
        "volumeMounts": mounts,
    }
    bed.apply(
        pod(
            "full",
            [main],
            initContainers=[first],
            volumes=[{"name": "conf", "configMap": {"name": "conf"}}, {"name": "data", "emptyDir": {}}],
        )
    )
    # The ConfigMap is not there yet: the pod waits for it, and says so.
    until(lambda: "not found" in bed.kubectl("get", "pod", "full", "-o", "jsonpath={..waiting.message}"))
    bed.apply({**config, "data": {"greeting": "hello\n"}})
    address = until(lambda: bed.ready("full"))
    log = bed.state / "pods/default_full/c0.log"
    text = until(lambda: log.read_text() if "default via" in log.read_text() else "")
    assert text.startswith("hello\ninitialised\nfull\nfull\nnameserver 10.96.0.10\n")
    assert "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n" in text
    assert f"{address}\tfull" in text
    assert f"inet {address}/32" in text
    assert "default via 10.244.1.1 dev eth0" in text
    assert not Path("/etc/lab-test").exists()
    pid = int((bed.state / "pods/default_full/pid").read_text())
    assert bed.run("nsenter", "-t", str(pid), "-n", "ip", "-o", "address", "show", "dev", "eth0")


def test_a_pod_that_ends_and_one_that_keeps_ending(bed: KubeletBed) -> None:
    bed.apply(
        pod("once", [{"command": ["true"]}], restartPolicy="Never"),
        pod("crash", [{"command": ["sh", "-c", "exit 3"]}]),
    )
    until(lambda: bed.pod("once")["status"]["phase"] == "Succeeded")

    def crashed() -> bool:
        status = (bed.pod("crash")["status"].get("containerStatuses") or [{}])[0]
        return status.get("restartCount", 0) >= 3 and status["lastState"]["terminated"]["exitCode"] == 3

    until(crashed)
    assert not bed.ready("crash")


def test_a_killed_kubelet_loses_no_pod_and_its_heir_goes_on(bed: KubeletBed) -> None:
    bed.apply(pod("stays", [PROBED]), pod("goes", [WEB]))
    address = until(lambda: bed.ready("stays"))
    until(lambda: bed.ready("goes"))
    before = bed.record("stays")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        bed.end_kubelet(number)
        assert "pod: stays" in bed.run("curl", "-s", "-m", "2", f"http://{address}/")
        bed.kubectl("delete", "pod", "goes", "--wait=false", "--ignore-not-found")
        bed.start_kubelet()
        until(lambda: not bed.pod("goes"))
    assert bed.record("stays")["containers"]["c0"]["process"] == before["containers"]["c0"]["process"]
    status = bed.pod("stays")["status"]["containerStatuses"][0]
    assert (status["ready"], status["restartCount"]) == (True, 0)
    # The heir sees the end of a process that is not its child.
    bed.run("kill", "-9", str(bed.record("stays")["pid"]), check=True)
    until(lambda: bed.pod("stays")["status"]["containerStatuses"][0]["restartCount"] == 1)
    until(lambda: bed.ready("stays"))


def test_what_a_container_started_ends_with_it(bed: KubeletBed) -> None:
    server = "python3 -m http.server 8080 & wait"
    probe = {"exec": {"command": ["test", "!", "-e", f"{bed.directory}/unwell"]}, "periodSeconds": 1}
    healthy = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    bed.apply(
        pod("family", [{"command": ["sh", "-c", server], "livenessProbe": probe, "readinessProbe": healthy}])
    )
    until(lambda: bed.ready("family"))
    # The liveness probe has the shell ended; the server must free its port for the next one.
    (bed.directory / "unwell").touch()

    def restarts() -> int:
        return int(bed.pod("family")["status"]["containerStatuses"][0]["restartCount"])

    until(lambda: restarts() > 0)
    (bed.directory / "unwell").unlink()
    until(lambda: bed.ready("family"))
    assert "Address already in use" not in (bed.state / "pods/default_family/c0.log").read_text()


def test_a_pod_that_goes_serves_while_the_proxies_take_it_out(bed: KubeletBed) -> None:
    bed.apply(pod("drains", [WEB]))
    address = until(lambda: bed.ready("drains"))
    answered: list[float] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            if "pod: drains" in bed.run("curl", "-s", "-m", "1", f"http://{address}/"):
                answered.append(time.monotonic())

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        told = time.monotonic()
        bed.kubectl("delete", "pod", "drains")
        took = time.monotonic() - told
    finally:
        done.set()
        asking.join()
    assert max(answered) - told >= 1.5
    assert took < 10


def test_a_pod_deleted_by_force_is_ended_too(bed: KubeletBed) -> None:
    bed.apply(pod("forced", [{"command": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]}]))
    until(lambda: bed.ready("forced"))
    record = bed.record("forced")
    bed.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    until(lambda: Path(record["netns"]).name not in bed.run("ip", "netns"))
    assert bed.run("ps", "-o", "pid=", "-p", str(record["pid"])) == ""


FLOOD = """
import resource, socket, subprocess, sys, time
few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
line = [sys.executable, "-I", "-S", sys.argv[1], "--pod", "p", "--node", "n", "--port", "8090/TCP"]
server = subprocess.Popen(line, preexec_fn=few)
clients = []
while len(clients) < 200:
    try:
        clients.append(socket.create_connection(("127.0.0.1", 8090)))
    except ConnectionRefusedError:
        time.sleep(0.02)
ticks = lambda: sum(map(int, open(f"/proc/{server.pid}/stat").read().rpartition(")")[2].split()[11:13]))
time.sleep(0.3)
before = ticks()
time.sleep(0.5)
print("busy", ticks() - before)
clients[0].sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
print(clients[0].recv(15).decode())
server.kill()
"""


def test_more_clients_than_descriptors_do_not_keep_the_responder_busy(bed: KubeletBed) -> None:
    responder = str(Path(kubeproxy.lab.__file__).with_name("responder.py"))
    busy, answer = bed.run(sys.executable, "-c", FLOOD, responder, check=True).splitlines()
    assert int(busy.split()[1]) <= 5
    assert answer == "HTTP/1.1 200 OK"


def test_nothing_is_left_of_deleted_pods(bed: KubeletBed) -> None:
    bed.kubectl("delete", "pods", "--all")
    assert bed.kubectl("get", "pods", "-o", "name") == ""
    assert bed.run("ip", "netns") == ""
    assert "veth" not in bed.run("ip", "link")
    assert list((bed.state / "pods").iterdir()) == []
    assert '"reserved":{}' in (bed.state / "addresses.json").read_text()
    assert "responder.py" not in bed.run("ps", "-A", "-o", "args")
