"""Whatever the scheduler, clients are served while an endpoint drains: nobody is sent to it, nobody is refused."""

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from kubeproxy.dataplane.ipvs.render import Renderer
from kubeproxy.dataplane.ipvs.steps import CHOOSES_THE_IDLE
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.ipvs import SCHEDULERS, IpvsSettings
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Protocol
from tests.netns.lone_namespace import LoneNamespace, lone_namespace

VIP = ServerKey(Protocol.TCP, "10.9.0.1", 80)
ENDPOINTS = [f"10.9.1.{number}" for number in range(1, 5)]
CLIENTS = [f"10.9.2.{number}" for number in range(1, 41)]
STICKY = "affinity under policy Local"


@pytest.fixture
def namespace() -> Iterator[LoneNamespace]:
    with lone_namespace() as made:
        made.ip("link set lo up")
        for address in (VIP.address, *ENDPOINTS, *CLIENTS):
            made.ip(f"address add {address}/32 dev lo")
        yield made


def server_of(scheduler: str) -> Server:
    """Return the virtual server that is rendered for a Service with this scheduler, or for its short circuit."""
    targets = tuple(Target(f"{each}:8080", each, 8080, True) for each in ENDPOINTS)
    state = ServiceState(
        name=ServicePortName("default", "web", "", Protocol.TCP),
        cluster_ip=VIP.address,
        port=VIP.port,
        external_ips=("198.18.0.1",),
        external_local=True,
        affinity_seconds=60 if scheduler == STICKY else 0,
        scheduler="" if scheduler == STICKY else scheduler,
        cluster=targets,
        local=targets,
    )
    node = NodeState(family=Family.V4, name="node1")
    virtuals = Renderer(node, IpvsSettings(), ()).render(state, 0x6B000001).virtuals
    by_mark = scheduler == STICKY
    server = next(each.server for each in virtuals if bool(each.server.key.mark) is by_mark)
    return msgspec.structs.replace(server, key=VIP)


def answers(sources: list[str]) -> list[str]:
    """Connect from each address; return which endpoint answered, or how the client was refused."""
    found = []
    for source in sources:
        try:
            with socket.create_connection(
                (VIP.address, VIP.port), timeout=5, source_address=(source, 0)
            ) as client:
                found.append(client.recv(100).decode())
        except OSError as error:
            found.append(str(error))
    return found


def serve(listener: socket.socket) -> None:
    """Tell each client which endpoint it has reached, until somebody says nothing but its own address."""
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.getsockname()[0].encode())


def looked(scheduler: str) -> tuple[list[str], list[str]]:
    """Return who answers while all serve, and while the first drains."""
    ipvs, server = Ipvs(), server_of(scheduler)
    add = [Command(Verb.ADD_DESTINATION, server, Destination(each, 8080)) for each in ENDPOINTS]
    assert set(ipvs.run([Command(Verb.ADD_SERVER, server), *add])) == {0}
    with socket.create_server(("0.0.0.0", 8080), backlog=128) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        before = answers(CLIENTS)
        assert ipvs.run([Command(Verb.SET_DESTINATION, server, Destination(ENDPOINTS[0], 8080, 0))]) == [0]
        return before, answers(CLIENTS)


@pytest.mark.parametrize("scheduler", [*(each for each in SCHEDULERS if each not in CHOOSES_THE_IDLE), STICKY])
def test_nobody_is_refused_while_an_endpoint_drains(namespace: LoneNamespace, scheduler: str) -> None:
    before, after = namespace.run(lambda: looked(scheduler))
    assert set(before) <= set(ENDPOINTS)
    assert set(after) <= set(ENDPOINTS[1:])
    if scheduler == STICKY:
        stayed = [(old, new) for old, new in zip(before, after, strict=True) if old != ENDPOINTS[0]]
        assert all(old == new for old, new in stayed)
