"""The mirroring planner: which Endpoints become slices, and what of them."""

import itertools

import msgspec
import pytest

from kubeproxy.controllers.mirroring import plan_mirror
from kubeproxy.controllers.objects import Endpoints, shape
from tests.controllers_bed import service

pytestmark = pytest.mark.unit

HTTP = {"name": "http", "port": 80}


def endpoints(*subsets, labels=None, annotations=None):
    meta = {"name": "svc", "namespace": "ns", "uid": "u-ep", "labels": labels, "annotations": annotations}
    return msgspec.convert({"metadata": meta, "subsets": list(subsets)}, Endpoints)


def subset(*ips, not_ready=(), ports=(HTTP,)):
    return {
        "addresses": [{"ip": ip} for ip in ips],
        "notReadyAddresses": [{"ip": ip} for ip in not_ready],
        "ports": list(ports),
    }


ONE = subset("192.0.2.1")


def plan(found, standing=(), svc=None):
    numbers = itertools.count(len(standing))
    return plan_mirror(svc or service(selector=None), found, standing, lambda prefix: f"{prefix}{next(numbers)}")


def content(slices):
    return sorted(
        (
            each.address_type,
            [port.port for port in each.ports],
            [(endpoint.addresses[0], endpoint.conditions.ready) for endpoint in each.endpoints],
        )
        for each in slices
    )


def test_a_mirror_says_whose_it_is():
    annotations = {
        "a": "b",
        "endpoints.kubernetes.io/last-change-trigger-time": "x",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }
    address = {"ip": "192.0.2.1", "hostname": "h", "nodeName": "n", "targetRef": {"kind": "Node", "name": "n"}}
    found = endpoints({"addresses": [address], "ports": [HTTP]}, labels={"app": "x"}, annotations=annotations)
    made = shape(plan(found).creates[0])
    meta = made["metadata"]
    assert meta["labels"] == {
        "app": "x",
        "kubernetes.io/service-name": "svc",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    assert (meta["annotations"], meta["generateName"]) == ({"a": "b"}, "svc-")
    assert (meta["ownerReferences"][0]["kind"], meta["ownerReferences"][0]["uid"]) == ("Endpoints", "u-ep")
    assert made["ports"] == ({"name": "http", "protocol": "TCP", "port": 80},)
    assert made["endpoints"] == (
        {
            "addresses": ("192.0.2.1",),
            "conditions": {"ready": True},
            "hostname": "h",
            "nodeName": "n",
            "targetRef": {"kind": "Node", "name": "n"},
        },
    )


def test_a_slice_for_each_family_and_set_of_ports():
    other = {"name": "", "port": 81}
    found = endpoints(
        subset("192.0.2.1", "2001:db8::1", not_ready=["192.0.2.2", "192.0.2.1"]),
        subset("192.0.2.3", ports=[other]),
        subset("192.0.2.4", "nonsense"),
    )
    assert content(plan(found).creates) == [
        ("IPv4", [80], [("192.0.2.1", True), ("192.0.2.2", False), ("192.0.2.4", True)]),
        ("IPv4", [81], [("192.0.2.3", True)]),
        ("IPv6", [80], [("2001:db8::1", True)]),
    ]


def test_a_thousand_addresses_of_a_subset():
    ips = [f"10.1.{n >> 8}.{n & 255}" for n in range(1005)]
    assert [len(each.endpoints) for each in plan(endpoints(subset(*ips))).creates] == [1000]


@pytest.mark.parametrize(
    ("found", "svc"),
    [
        (None, None),
        (endpoints(), None),
        (endpoints(subset("192.0.2.1"), labels={"endpointslice.kubernetes.io/skip-mirror": "true"}), None),
        (
            endpoints(subset("192.0.2.1"), labels={"endpoints.kubernetes.io/managed-by": "endpoint-controller"}),
            None,
        ),
        (endpoints(subset("192.0.2.1"), annotations={"control-plane.alpha.kubernetes.io/leader": "{}"}), None),
        (endpoints(subset("192.0.2.1")), service()),
    ],
)
def test_what_is_not_mirrored_loses_its_slices(found, svc):
    standing = plan(endpoints(subset("192.0.2.9"))).creates
    done = plan(found, standing, svc)
    assert (done.creates, done.updates, done.deletes) == ((), (), standing)


def test_without_a_service_nothing_is_mirrored():
    assert not plan_mirror(None, endpoints(subset("192.0.2.1")), (), str)


def test_a_change_is_one_write_and_none_is_none():
    before = endpoints(subset("192.0.2.1", "192.0.2.2"))
    standing = plan(before).creates
    assert not plan(before, standing)
    done = plan(endpoints(subset("192.0.2.1", not_ready=["192.0.2.2"])), standing)
    assert (len(done.creates), len(done.updates), len(done.deletes)) == (0, 1, 0)
    labelled = plan(endpoints(subset("192.0.2.1", "192.0.2.2"), annotations={"a": "b"}), standing)
    assert [each.metadata.annotations for each in labelled.updates] == [{"a": "b"}]
