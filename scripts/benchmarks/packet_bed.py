"""A client, a node and a pod in network namespaces; the pod has the address of every endpoint there is.

    client 10.200.0.2 ── node 192.168.7.1, with the kernel state to be measured ── pod 10.128.0.0/10

The client is a pod too, as the node sees it, so nothing is masqueraded, and a connection to an endpoint's own
address takes the same way: what is left between the two is the Service.
"""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cluster
from namespace import FORWARDING

from kubeproxy.kernel.netns import CLONE_NEWNET, enter, setns

CLIENT, CLIENT_GATEWAY, POD, POD_GATEWAY = "10.200.0.2", "10.200.0.1", "10.191.255.2", "10.191.255.1"
PODS = "10.128.0.0/10"
"""Endpoints; those that come later are not among them."""
TIMEOUT_SECONDS = 5.0
CLIENT_PORTS = range(2000, 65000)
"""Each once: IPVS keeps the client's port, and an endpoint remembers for a minute whose connection it had."""

ANSWER = f"""
import socket
with socket.create_server(("0.0.0.0", {cluster.TARGET_PORT}), backlog=1024) as listener:
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.send(b"!")
        connection.close()
"""
"""The pod's server: one byte to everybody."""

_count = itertools.count()


class PacketBed:
    """One client, node and pod; see `packet_bed`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._prefix = f"kpb-{os.getpid()}-{next(_count)}-"
        for who in ("client", "node", "pod"):
            self._ip(f"netns add {self._prefix}{who}")
            stack.callback(self._ip, f"netns del {self._prefix}{who}")
        self._link("client", CLIENT, CLIENT_GATEWAY, CLIENT)
        self._link("pod", POD, POD_GATEWAY, PODS)
        self._ip(f"-n {self._prefix}pod route add local {PODS} dev lo")
        self._ip(f"-n {self._prefix}node addr add {cluster.NODE_IP}/32 dev lo")
        self._ports = iter(CLIENT_PORTS)
        self._client = os.open(self._path("client"), os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, self._client)
        self._node = ThreadPoolExecutor(1, initializer=enter, initargs=(self._path("node"), CLONE_NEWNET))
        stack.callback(self._node.shutdown)
        self._node.submit(FORWARDING.write_text, "1").result()
        argv = ["ip", "netns", "exec", f"{self._prefix}pod", sys.executable, "-ISc", ANSWER]
        server = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        stack.callback(server.terminate)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", "the pod's server did not start"

    @property
    def on_node(self) -> ThreadPoolExecutor:
        """What runs in the node's namespace."""
        return self._node

    def connect(self, address: str, port: int) -> float:
        """Connect from the client and read the answer; return the seconds. Leaves this thread in its namespace."""
        setns(self._client, CLONE_NEWNET)
        with socket.socket() as client:
            client.settimeout(TIMEOUT_SECONDS)
            client.bind(("0.0.0.0", next(self._ports)))
            began = time.perf_counter()
            client.connect((address, port))
            answer = client.recv(1)
            seconds = time.perf_counter() - began
        assert answer == b"!", f"{address}:{port} closed without an answer"
        return seconds

    def _link(self, who: str, address: str, gateway: str, behind: str) -> None:
        node, other = f"{self._prefix}node", f"{self._prefix}{who}"
        self._ip(f"link add {who} netns {node} type veth peer name eth0 netns {other}")
        self._ip(f"-n {other} link set lo up")
        self._ip(f"-n {other} addr add {address}/32 dev eth0")
        self._ip(f"-n {other} link set eth0 up")
        self._ip(f"-n {other} route add {gateway} dev eth0")
        self._ip(f"-n {other} route add default via {gateway}")
        self._ip(f"-n {node} link set lo up")
        self._ip(f"-n {node} addr add {gateway}/32 dev {who}")
        self._ip(f"-n {node} link set {who} up")
        self._ip(f"-n {node} route add {address} dev {who}")
        if behind != address:
            self._ip(f"-n {node} route add {behind} via {address} dev {who} onlink")

    def _path(self, who: str) -> Path:
        return Path("/run/netns", self._prefix + who)

    def _ip(self, command: str) -> None:
        subprocess.run(["ip", *command.split()], check=True)


@contextlib.contextmanager
def packet_bed() -> Iterator[PacketBed]:
    """Yield a bed; nothing of it stays. As root."""
    with contextlib.ExitStack() as stack:
        yield PacketBed(stack)
