"""JSON of the API → stripped values: what is kept, what is made canonical, what is refused."""

from typing import Any

import msgspec
import pytest

from kubeproxy.model.addresses import Family, canonical_cidr, canonical_ip, family_of
from kubeproxy.model.decode import (
    DecodeError,
    decode_endpoint_slice,
    decode_namespace,
    decode_node,
    decode_service,
)
from kubeproxy.model.objects import Protocol, ServiceType, TrafficPolicy

pytestmark = pytest.mark.unit


def encoded(name: Any = "a", namespace: Any = "default", **fields: Any) -> bytes:
    labels = fields.pop("labels", None)
    return msgspec.json.encode({"metadata": {"name": name, "namespace": namespace, "labels": labels}, **fields})


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("172.30.0.041", "172.30.0.41"),
        ("010.000.000.001", "10.0.0.1"),
        ("FD00::0:1", "fd00::1"),
        ("::ffff:10.0.0.01", "10.0.0.1"),
        ("", None),
        ("None", None),
        ("10.0.0", None),
        ("10.0.0.256", None),
        ("10.0.0.1 -j ACCEPT", None),
        ("10.0.0.1\n", None),
        ("fe80::1%eth0", None),
        ("١٠.0.0.1", None),
        ("1" * 5000, None),
    ],
)
def test_addresses(text: str, canonical: str | None) -> None:
    assert canonical_ip(text) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" 10.1.2.3/8", "10.0.0.0/8"),
        ("10.0.0.00/08", "10.0.0.0/8"),
        ("::/0", "::/0"),
        ("10.0.0.1", None),
        ("10.0.0.0/33", None),
        ("10.0.0.0/8; reboot", None),
        ("10.0.0.0/-1", None),
    ],
)
def test_cidrs(text: str, canonical: str | None) -> None:
    assert canonical_cidr(text) == canonical


def test_families() -> None:
    assert family_of("fd00::/64") is Family.V6
    assert family_of("10.0.0.1").label == "IPv4"


def test_a_service_keeps_what_somebody_reads() -> None:
    service = decode_service(
        encoded(
            "nginx-service",
            spec={
                "type": "LoadBalancer",
                "clusterIP": "10.96.0.041",
                "clusterIPs": ["10.96.0.041", "fd00::1"],
                "ports": [
                    {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 32600},
                    {"name": "dns", "protocol": "UDP", "port": 53},
                ],
                "externalIPs": ["1.2.3.004", "not an address"],
                "loadBalancerSourceRanges": [" 203.0.113.0/25", "bad"],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30001,
            },
            status={
                "loadBalancer": {
                    "ingress": [{"ip": "5.6.7.8"}, {"ip": "5.6.7.9", "ipMode": "Proxy"}, {"hostname": "x"}]
                }
            },
            labels={"service.kubernetes.io/service-proxy-name": "other"},
        )
    )
    assert service.type is ServiceType.LOAD_BALANCER
    assert service.cluster_ips == ("10.96.0.41", "fd00::1")
    assert [(port.name, port.protocol, port.port, port.node_port) for port in service.ports] == [
        ("http", Protocol.TCP, 80, 32600),
        ("dns", Protocol.UDP, 53, 0),
    ]
    assert service.external_ips == ("1.2.3.4",)
    assert service.load_balancer_ips == ("5.6.7.8",)
    assert service.source_ranges == ("203.0.113.0/25", "::/128")  # nonsense opens no door
    assert (service.session_affinity, service.affinity_seconds) == (True, 60)
    assert (service.external_policy, service.internal_policy) == (TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER)
    assert service.health_check_node_port == 30001
    assert service.proxy_name == "other"


def test_headless_and_external_name() -> None:
    headless = decode_service(encoded(spec={"clusterIP": "None"}))
    assert headless.headless
    assert headless.cluster_ips == ()
    external = decode_service(encoded(spec={"type": "ExternalName", "externalName": "Search.Example.COM"}))
    assert external.external_name == "search.example.com"
    assert decode_service(encoded(spec={"type": "ExternalName", "externalName": 'x"\n'})).external_name == ""


@pytest.mark.parametrize(
    "port",
    [
        {"port": 0},
        {"port": 65536},
        {"port": -1},
        {},
        {"port": 80, "protocol": "ICMP"},
        {"port": 80, "name": 'x" -j ACCEPT'},
        {"port": 80, "name": "x\ny"},
    ],
)
def test_a_bad_port_is_dropped_and_the_others_stay(port: dict[str, Any]) -> None:
    service = decode_service(encoded(spec={"clusterIP": "10.0.0.1", "ports": [port, {"port": 443, "name": "ok"}]}))
    assert [port.port for port in service.ports] == [443]


BREAKOUTS = [
    "",
    "a b",
    'a"',
    "a'",
    "a\nCOMMIT",
    "a;reboot",
    "$(reboot)",
    "`x`",
    "../etc",
    "A",
    "a" * 64,
    "-a",
    "é",
    "a\x00",
]


@pytest.mark.parametrize("name", BREAKOUTS)
def test_no_name_outside_the_grammar_gets_in(name: str) -> None:
    with pytest.raises(DecodeError):
        decode_service(encoded(namespace=name))
    with pytest.raises(DecodeError):
        decode_endpoint_slice(encoded(namespace=name))
    with pytest.raises(DecodeError):
        decode_namespace(encoded(name=name))
    if name != "a" * 64:
        with pytest.raises(DecodeError):
            decode_service(encoded(name=name))
        with pytest.raises(DecodeError):
            decode_node(encoded(name=name))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b'{"metadata":3}', b'{"metadata":{"name":"\xff"}}'])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    for decode in (decode_service, decode_endpoint_slice, decode_node, decode_namespace):
        with pytest.raises(DecodeError):
            decode(data)


def test_an_endpoint_slice() -> None:
    found = decode_endpoint_slice(
        encoded(
            "a-1",
            addressType="IPv4",
            ports=[
                {"name": "http", "port": 8080},
                {"port": 1},
                {"name": "none"},
                {"name": "", "port": 53, "protocol": "UDP"},
            ],
            endpoints=[
                {"addresses": ["10.180.00.001"], "nodeName": "n1", "hostname": "web-0"},
                {"addresses": ["10.1.1.2"], "conditions": {"ready": False, "serving": True, "terminating": True}},
                {
                    "addresses": ["10.1.1.3"],
                    "conditions": {"ready": None},
                    "targetRef": {"kind": "Pod", "name": "p"},
                },
                {"addresses": ["bad"]},
                {"addresses": []},
            ],
            labels={"kubernetes.io/service-name": "a", "service.kubernetes.io/headless": ""},
        )
    )
    assert (found.service, found.headless) == ("a", True)
    assert [(port.name, port.port) for port in found.ports] == [("http", 8080), ("", 53)]
    assert [endpoint.address for endpoint in found.endpoints] == ["10.180.0.1", "10.1.1.2", "10.1.1.3"]
    first, second, third = found.endpoints
    assert (first.node_name, first.hostname, first.conditions.ready) == ("n1", "web-0", True)
    assert (second.conditions.ready, second.conditions.serving, second.conditions.terminating) == (
        False,
        True,
        True,
    )
    assert (third.conditions.ready, third.pod_name) == (True, "p")


def test_a_node() -> None:
    node = decode_node(
        encoded(
            "node1",
            spec={"podCIDRs": ["10.244.1.0/24"], "taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]},
            status={
                "addresses": [
                    {"type": "Hostname", "address": "node1"},
                    {"type": "InternalIP", "address": "192.168.56.11"},
                ]
            },
            labels={"topology.kubernetes.io/zone": "z1"},
        )
    )
    assert node.internal_ips == ("192.168.56.11",)
    assert node.pod_cidrs == ("10.244.1.0/24",)
    assert (node.zone, node.taint_keys) == ("z1", ("ToBeDeletedByClusterAutoscaler",))
