"""The Endpoints planner: what old clients read about a Service with a selector."""

import pytest

from kubeproxy.controllers.objects import shape
from kubeproxy.controllers.subsets import plan_endpoints
from tests.controllers_bed import HTTP, pod, service

pytestmark = pytest.mark.unit

ADMIN = {"name": "admin", "protocol": "TCP", "port": 81, "targetPort": 9000}
PLAIN = {"protocol": "TCP", "port": 80, "targetPort": 8080}
MANAGED = {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}


def subsets(svc, pods):
    return [
        (
            [each["ip"] for each in subset.get("addresses", ())],
            [each["ip"] for each in subset.get("notReadyAddresses", ())],
            [(port.get("name"), port["port"]) for port in subset.get("ports", ())],
        )
        for subset in shape(plan_endpoints(svc, pods, None)).get("subsets", ())
    ]


def crowd(count, *, ready=True, net=1, **how):
    return [pod(f"p{net}-{n:04}", f"10.{net}.{n >> 8}.{n & 255}", ready=ready, **how) for n in range(count)]


def test_an_address_says_all_that_others_read():
    named = pod("p1", hostname="web-0", subdomain="svc")
    made = shape(plan_endpoints(service([PLAIN], labels={"app": "x"}), [named], None))
    assert made["subsets"] == (
        {
            "addresses": (
                {
                    "ip": "10.244.0.1",
                    "hostname": "web-0",
                    "nodeName": "n1",
                    "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p1", "uid": "u-p1"},
                },
            ),
            "ports": ({"protocol": "TCP", "port": 8080},),
        },
    )
    meta = made["metadata"]
    assert (meta["name"], meta["labels"]) == ("svc", {"app": "x", **MANAGED})
    assert meta["annotations"] == {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}
    assert "ownerReferences" not in meta


@pytest.mark.parametrize(
    ("svc", "pods", "expected"),
    [
        # Pods that offer the same ports share a subset, in the order of their addresses.
        (
            service([HTTP, ADMIN]),
            [pod("b", "10.0.0.10"), pod("a", "10.0.0.9")],
            [(["10.0.0.9", "10.0.0.10"], [], [("http", 8080), ("admin", 9000)])],
        ),
        # One that leads a name elsewhere shares what it can.
        (
            service([HTTP, ADMIN]),
            [pod("a", "10.0.0.9"), pod("b", "10.0.0.10", port=8081)],
            [
                (["10.0.0.9"], [], [("http", 8080)]),
                (["10.0.0.9", "10.0.0.10"], [], [("admin", 9000)]),
                (["10.0.0.10"], [], [("http", 8081)]),
            ],
        ),
        (
            service([PLAIN]),
            [pod("a", "10.0.0.9", ready=False), pod("b", "10.0.0.10"), pod("c", "10.0.0.11", leaving=True)],
            [(["10.0.0.10"], ["10.0.0.9"], [(None, 8080)])],
        ),
        (
            service([PLAIN], publishNotReadyAddresses=True),
            [pod("a", "10.0.0.9", ready=False), pod("c", "10.0.0.11", leaving=True)],
            [(["10.0.0.9", "10.0.0.11"], [], [(None, 8080)])],
        ),
        (service([PLAIN]), [pod("a", phase="Failed"), pod("b", ()), pod("c", "fd00::1")], []),
        (
            service([PLAIN], ipFamilies=["IPv6", "IPv4"]),
            [pod("a", ["10.0.0.9", "fd00::1"])],
            [(["fd00::1"], [], [(None, 8080)])],
        ),
        (service([], clusterIP="None"), [pod("a")], [(["10.244.0.1"], [], [])]),
        (service([]), [pod("a")], []),
    ],
)
def test_subsets(svc, pods, expected):
    assert subsets(svc, pods) == expected


@pytest.mark.parametrize(
    ("ready", "not_ready", "kept"),
    [(1000, 0, (1000, 0)), (1001, 5, (1000, 0)), (900, 300, (900, 100)), (600, 400, (600, 400))],
)
def test_no_more_than_a_thousand_addresses_ready_ones_first(ready, not_ready, kept):
    pods = [*crowd(ready), *crowd(not_ready, ready=False, net=2)]
    made = plan_endpoints(service([PLAIN]), pods, None)
    subset = made.subsets[0]
    assert (len(subset.addresses), len(subset.not_ready_addresses or ())) == kept
    over = ready + not_ready > 1000
    assert made.metadata.annotations.get("endpoints.kubernetes.io/over-capacity") == (
        "truncated" if over else None
    )
    assert plan_endpoints(service([PLAIN]), pods, made) is None
    fewer = plan_endpoints(service([PLAIN]), pods[:10], made)
    assert "endpoints.kubernetes.io/over-capacity" not in (fewer.metadata.annotations or {})


def test_each_subset_keeps_its_share():
    pods = [*crowd(900), *crowd(600, net=2, port=9090)]
    made = plan_endpoints(service(), pods, None)
    assert [len(each.addresses) for each in made.subsets] == [600, 400]


def test_only_what_differs_is_written_and_foreign_annotations_stay():
    svc = service([PLAIN], clusterIP="None")
    made = plan_endpoints(svc, [pod("a")], None)
    assert made.metadata.labels == {"service.kubernetes.io/headless": "", **MANAGED}
    made.metadata.annotations["example.com/mine"] = "1"
    assert plan_endpoints(svc, [pod("a")], made) is None
    after = plan_endpoints(service([PLAIN]), [pod("a"), pod("b", "10.0.0.3")], made)
    assert after.metadata.labels == MANAGED
    assert after.metadata.annotations == {
        "example.com/mine": "1",
        "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:05Z",
    }
