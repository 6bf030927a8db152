"""What of an API object cannot be used is left out and told, with the field's path; the rest is used."""

import json
from typing import Any

import pytest

from kubeproxy.model.addresses import Family
from kubeproxy.model.decode import NOBODY, decode_proxy_slice, decode_service
from kubeproxy.model.desired import desired
from kubeproxy.model.door import MAX_FAULTS
from kubeproxy.model.objects import Fault, key_of
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World

pytestmark = pytest.mark.unit

META = {"namespace": "ns", "name": "web", "labels": {"kubernetes.io/service-name": "web"}}


def told(faults: tuple[Fault, ...]) -> list[str]:
    return [f"{each.field} {each.value} is {each.reason}" for each in faults]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"ports": [{"port": 80}, {"port": 65536}]}, "spec.ports[1].port 65536 is no port (1 to 65535)"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port 0 is no port (1 to 65535)"),
        ({"ports": [{"protocol": "TCP"}]}, "spec.ports[0].port 0 is no port (1 to 65535)"),
        ({"ports": [{"port": 80, "nodePort": -1}]}, "spec.ports[0].nodePort -1 is no port (1 to 65535)"),
        (
            {"ports": [{"port": 80, "protocol": "ICMP"}]},
            "spec.ports[0].protocol 'ICMP' is no protocol (TCP, UDP or SCTP)",
        ),
        ({"ports": [{"port": 80, "name": "a\nb"}]}, "spec.ports[0].name 'a\\nb' is no name of a port"),
        ({"clusterIPs": ["10.0.0.1.2"]}, "spec.clusterIPs '10.0.0.1.2' is no IP address"),
        ({"externalIPs": ["\x1b[31m"]}, "spec.externalIPs '\\x1b[31m' is no IP address"),
        ({"loadBalancerSourceRanges": ["10/8"]}, "spec.loadBalancerSourceRanges '10/8' is no CIDR"),
        (
            {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds 0 is no timeout (1 to 86400); it counts as 10800",
        ),
        ({"type": "Router"}, "spec.type 'Router' is no type of Service; it counts as ClusterIP"),
        (
            {"externalTrafficPolicy": "local"},
            "spec.externalTrafficPolicy 'local' is no policy (Cluster or Local); it counts as Cluster",
        ),
        ({"healthCheckNodePort": 70000}, "spec.healthCheckNodePort 70000 is no port (1 to 65535)"),
        ({"healthCheckNodePort": 22}, "spec.healthCheckNodePort 22 is a port of the system's (below 1024)"),
    ],
)
def test_a_service_tells_what_is_wrong_with_it(spec: dict[str, Any], line: str) -> None:
    service = decode_service(json.dumps({"metadata": META, "spec": {"clusterIP": "10.96.0.1"} | spec}).encode())
    assert told(service.faults) == [line]
    world = World()
    world.apply_services({key_of(service): service})
    (rejection,) = world.rejections()
    assert str(rejection) == f"Service ns/web: {line}"
    world.apply_services({key_of(service): None})
    assert world.rejections() == ()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"ports": [{"name": "", "port": 65536}]}, "ports[0].port 65536 is no port (1 to 65535)"),
        ({"ports": [{"name": "A", "port": 80}]}, "ports[0].name 'A' is no name of a port"),
        ({"endpoints": [{"addresses": ["pod"]}]}, "endpoints.addresses 'pod' is no IP address"),
        (
            {"metadata": META | {"labels": {"kubernetes.io/service-name": "-"}}},
            "metadata.labels[kubernetes.io/service-name] '-' is no name of a Service",
        ),
    ],
)
def test_so_does_a_slice(fields: dict[str, Any], line: str) -> None:
    piece = decode_proxy_slice(json.dumps({"metadata": META, "addressType": "IPv4"} | fields).encode())
    assert told(piece.faults) == [line]
    world = World()
    world.apply_slices({key_of(piece): piece})
    assert [str(each) for each in world.rejections()] == [f"EndpointSlice ns/web: {line}"]


@pytest.mark.parametrize("wrong", ["fastest", "RR", "rr ", "rr\n", "ip_vs_rr"])
def test_a_scheduler_that_ipvs_has_not_is_told_and_the_nodes_counts(wrong: str) -> None:
    annotations = {"kubeproxy/ipvs-scheduler": wrong}
    service = decode_service(json.dumps({"metadata": META | {"annotations": annotations}, "spec": {}}).encode())
    assert service.scheduler == ""
    (line,) = told(service.faults)
    assert line.startswith(f"metadata.annotations[kubeproxy/ipvs-scheduler] {wrong!r} is no scheduler (rr, wrr, ")
    assert line.endswith("mh); the node's counts")


def test_what_is_legal_is_no_fault() -> None:
    spec = {"clusterIP": "None", "ports": [{"port": 80, "nodePort": 0}], "healthCheckNodePort": 0, "type": ""}
    assert decode_service(json.dumps({"metadata": META, "spec": spec}).encode()).faults == ()
    ports = [{"name": "a", "port": None}, {"name": None, "port": 80}]
    fields = {"metadata": META, "addressType": "FQDN", "ports": ports, "endpoints": [{"addresses": ["a.example"]}]}
    piece = decode_proxy_slice(json.dumps(fields).encode())
    assert (piece.faults, piece.ports, piece.endpoints) == ((), (), ())


def test_many_faults_do_not_fill_a_log() -> None:
    endpoints = [{"addresses": [f"pod{n}"]} for n in range(1000)]
    piece = decode_proxy_slice(json.dumps({"metadata": META, "endpoints": endpoints}).encode())
    assert len(piece.faults) == MAX_FAULTS + 1
    assert told(piece.faults)[-1] == f"and {1000 - MAX_FAULTS} is more of the kind"
    long = decode_service(json.dumps({"metadata": META, "spec": {"externalIPs": ["x" * 5000]}}).encode())
    assert len(long.faults[0].value) < 70


def test_ranges_that_nobody_can_read_admit_nobody() -> None:
    """To leave such a list out would open the load balancer to everybody."""
    v4, v6 = NOBODY[Family.V4], NOBODY[Family.V6]
    for ranges, kept in (
        (["10/8", ""], (v4, v6)),
        (["10/8", "10.0.0.0/8"], ("10.0.0.0/8", v6)),
        (["fd00::/8", "fd00::/129"], ("fd00::/8", v4)),
        (["10.0.0.0/8"], ("10.0.0.0/8",)),
        ([], ()),
    ):
        spec = {"clusterIP": "10.96.0.1", "loadBalancerSourceRanges": ranges}
        assert decode_service(json.dumps({"metadata": META, "spec": spec}).encode()).source_ranges == kept


def test_of_two_ports_with_one_name_and_protocol_the_first_counts() -> None:
    ports = [{"name": "a", "port": port, "nodePort": 30000 + port} for port in (80, 81, 81)]
    spec = {"clusterIP": "10.96.0.1", "ports": ports}
    world = World()
    service = decode_service(json.dumps({"metadata": META, "spec": spec}).encode())
    world.apply_services({key_of(service): service})
    line = "spec.ports a/TCP 81 is not the first of its name and protocol"
    assert [str(each) for each in world.rejections()] == [f"Service ns/web: {line}"]
    (state,) = desired(world, Settings(node_name="n"), Family.V4).values()
    assert (state.port, state.node_port) == (80, 30080)
    other = decode_service(
        json.dumps({"metadata": META | {"name": "x"}, "spec": spec | {"clusterIP": "10.96.0.2"}}).encode()
    )
    world.apply_services({key_of(other): other})
    assert [str(each) for each in world.rejections() if each.name == "x"] == [
        "Service ns/x: spec.ports a/TCP 81 is not the first of its name and protocol",
        "Service ns/x: spec.ports[0].nodePort 30080/TCP is the place of ns/web",
    ]
