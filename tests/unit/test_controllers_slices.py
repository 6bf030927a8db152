"""The slice planner: what a Service's slices hold, and that a plan touches no more than it must."""

import itertools
import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy.controllers import slices
from kubeproxy.controllers.objects import shape
from kubeproxy.controllers.slices import plan_slices
from tests.controllers_bed import HTTP, pod, service

pytestmark = pytest.mark.unit


def namer():
    numbers = itertools.count()
    return lambda prefix: f"{prefix}{next(numbers):05}"


def plan(svc, pods, standing=(), zones=None, names=None):
    return plan_slices(svc, pods, standing, zones or {}, names or namer())


def carried_out(standing, done):
    """Return the slices after a plan."""
    gone = {each.metadata.name for each in (*done.deletes, *done.updates)}
    return [each for each in standing if each.metadata.name not in gone] + [*done.updates, *done.creates]


def first(done):
    return shape(done.creates[0])


def test_a_ready_pod_becomes_an_endpoint_with_all_that_others_read():
    made = first(plan(service(), [pod("p1")], zones={"n1": "z1"}))
    assert made["endpoints"] == (
        {
            "addresses": ("10.244.0.1",),
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "n1",
            "zone": "z1",
            "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p1", "uid": "u-p1"},
        },
    )
    assert made["ports"] == ({"name": "http", "protocol": "TCP", "port": 8080},)
    assert made["addressType"] == "IPv4"
    meta = made["metadata"]
    assert meta["labels"] == {
        "kubernetes.io/service-name": "svc",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert meta["name"] == "svc-00000"
    assert meta["ownerReferences"][0]["uid"] == "u-svc"
    assert meta["annotations"] == {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("pod_state", "publish", "conditions"),
    [
        ({"ready": True}, False, (True, True, False)),
        ({"ready": False}, False, (False, False, False)),
        ({"ready": False}, True, (True, False, False)),
        ({"ready": True, "leaving": True}, False, (False, True, True)),
        ({"ready": False, "leaving": True}, False, (False, False, True)),
        ({"ready": True, "leaving": True}, True, (True, True, True)),
    ],
)
def test_conditions(pod_state, publish, conditions):
    made = first(plan(service(publishNotReadyAddresses=publish), [pod("p", **pod_state)]))
    found = made["endpoints"][0]["conditions"]
    assert (found["ready"], found["serving"], found["terminating"]) == conditions


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_finished_pods_are_no_endpoints(phase):
    assert first(plan(service(), [pod("p", phase=phase)])).get("endpoints", ()) == ()


def test_a_pod_without_address_waits():
    assert first(plan(service(), [pod("p", ip=())])).get("endpoints", ()) == ()


def test_named_ports_that_differ_make_separate_slices():
    done = plan(service(), [pod("p1", port=8080), pod("p2", "10.244.0.2", port=9090)])
    ports = sorted((shape(each)["ports"][0]["port"], len(each.endpoints)) for each in done.creates)
    assert ports == [(8080, 1), (9090, 1)]


@pytest.mark.parametrize(
    ("target", "number"),
    [(8443, 8443), ("web", 8080), ("8443", 8443), (None, 80), (0, 80)],
)
def test_target_ports(target, number):
    port = {"name": "", "protocol": "TCP", "port": 80, "targetPort": target}
    assert first(plan(service([port]), [pod("p")]))["ports"] == ({"name": "", "protocol": "TCP", "port": number},)


def test_a_named_port_of_another_protocol_is_not_meant():
    udp = {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": "web"}
    made = first(plan(service([HTTP, udp]), [pod("p")]))
    assert [port["name"] for port in made["ports"]] == ["http"]


def test_hostname_only_under_the_services_own_subdomain():
    named = pod("p1", hostname="web-0", subdomain="svc")
    other = pod("p2", "10.244.0.2", hostname="web-1", subdomain="elsewhere")
    made = first(plan(service(clusterIP="None"), [named, other]))
    assert [each.get("hostname") for each in made["endpoints"]] == ["web-0", None]
    assert made["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_dual_stack_makes_a_slice_per_family():
    done = plan(service(ipFamilies=["IPv4", "IPv6"]), [pod("p", ["10.244.0.1", "fd00::1"])])
    assert sorted((each.address_type, each.endpoints[0].addresses) for each in done.creates) == [
        ("IPv4", ("10.244.0.1",)),
        ("IPv6", ("fd00::1",)),
    ]


def test_an_address_that_is_none_is_left_out():
    assert first(plan(service(), [pod("p", "10.0.0.1; rm")])).get("endpoints", ()) == ()


def test_an_address_that_no_slice_may_hold_does_not_cost_the_others_theirs():
    bad = [pod(f"b{n}", ip) for n, ip in enumerate(["127.0.0.1", "169.254.0.1", "224.0.0.1", "0.0.0.0"])]
    made = first(plan(service(), [*bad, pod("p")]))
    assert [each["addresses"] for each in made["endpoints"]] == [("10.244.0.1",)]


def test_no_endpoints_is_said_by_one_empty_slice_that_stays():
    standing = plan(service(), [pod("p")]).creates
    emptied = plan(service(), [], standing)
    assert (len(emptied.updates), emptied.creates, emptied.deletes) == (1, (), ())
    assert emptied.updates[0].endpoints == ()
    assert emptied.updates[0].metadata.name == standing[0].metadata.name
    assert not plan(service(), [], emptied.updates)


@pytest.mark.parametrize(
    ("distribution", "zones", "hints"),
    [
        ("PreferClose", {"n1": "z1"}, {"forZones": ({"name": "z1"},)}),
        ("PreferSameZone", {"n1": "z1"}, {"forZones": ({"name": "z1"},)}),
        ("PreferSameNode", {"n1": "z1"}, {"forZones": ({"name": "z1"},), "forNodes": ({"name": "n1"},)}),
        ("PreferSameNode", {}, {"forNodes": ({"name": "n1"},)}),
        ("PreferSameZone", {}, None),
        ("Later", {"n1": "z1"}, None),
        (None, {"n1": "z1"}, None),
    ],
)
def test_hints_say_whom_a_ready_endpoint_is_for(distribution, zones, hints):
    svc = service(trafficDistribution=distribution)
    made = plan(svc, [pod("p1"), pod("p2", "10.244.0.2", ready=False)], zones=zones).creates
    assert [shape(each).get("hints") for each in made[0].endpoints] == [hints, None]
    changed = plan(service(), [pod("p1"), pod("p2", "10.244.0.2", ready=False)], made, zones=zones)
    assert len(changed.updates) == (hints is not None)
    assert [each.hints for after in changed.updates for each in after.endpoints] == [None, None] * bool(hints)


def test_a_family_that_the_service_gives_up_loses_its_slices():
    pods = [pod("p", ["10.244.0.1", "fd00::1"])]
    standing = plan(service(ipFamilies=["IPv4", "IPv6"]), pods).creates
    done = plan(service(), pods, standing)
    assert [each.address_type for each in done.deletes] == ["IPv6"]
    assert (done.creates, done.updates) == ((), ())
    assert [each.address_type for each in plan(service(ipFamilies=["IPv6"]), [], standing[:1]).creates] == ["IPv6"]


def test_slices_of_an_earlier_service_of_the_name_go():
    """Their owner is gone, and the garbage collector takes them at any moment."""
    standing = plan(service(), [pod("p")]).creates
    owner = msgspec.structs.replace(standing[0].metadata.owner_references[0], uid="earlier")
    meta = msgspec.structs.replace(standing[0].metadata, owner_references=(owner,))
    done = plan(service(), [pod("p")], [msgspec.structs.replace(standing[0], metadata=meta)])
    assert (len(done.creates), len(done.updates), len(done.deletes)) == (1, 0, 1)


def test_external_name_keeps_no_slices():
    standing = plan(service(), [pod("p")]).creates
    assert plan(service(type="ExternalName"), [], standing).deletes == standing


def test_slices_hold_at_most_a_hundred():
    pods = [pod(f"p{n:03}", f"10.244.{n // 200}.{n % 200 + 1}") for n in range(250)]
    done = plan(service(), pods)
    assert sorted(len(each.endpoints) for each in done.creates) == [50, 100, 100]


def test_one_more_pod_is_one_update_and_the_trigger_is_its_own():
    pods = [pod(f"p{n:03}", f"10.244.0.{n + 1}") for n in range(150)]
    names = namer()
    standing = list(plan(service(), pods, names=names).creates)
    done = plan(service(), [*pods, pod("new", "10.244.9.9")], standing, names=names)
    assert (len(done.creates), len(done.updates), len(done.deletes)) == (0, 1, 0)
    key = "endpoints.kubernetes.io/last-change-trigger-time"
    assert done.updates[0].metadata.annotations[key] == "2026-01-01T00:00:05Z"


def test_what_is_left_fits_one_slice_or_makes_a_new_one_and_nothing_moves():
    """Two slices of 60: one more goes into one of them, and 50 more into a new one."""
    names = namer()
    pods = [pod(f"p{n:03}", f"10.244.0.{n + 1}") for n in range(120)]
    halves = [plan(service(), half, names=names).creates[0] for half in (pods[:60], pods[60:])]
    more = [pod(f"q{n:03}", f"10.244.1.{n + 1}") for n in range(50)]
    one = plan(service(), [*pods, more[0]], halves, names=names)
    assert (len(one.creates), len(one.updates)) == (0, 1)
    many = plan(service(), [*pods, *more], halves, names=names)
    assert [len(each.endpoints) for each in many.creates] == [50]
    assert not many.updates


def test_a_slice_is_rewritten_rather_than_deleted_beside_a_new_one():
    names = namer()
    standing = plan(service(), [pod("p", port=8080)], names=names).creates
    done = plan(service(), [pod("p", port=9090)], standing, names=names)
    assert (len(done.creates), len(done.updates), len(done.deletes)) == (0, 1, 0)
    assert done.updates[0].ports[0].port == 9090


def rolled(count, batch):
    """Replace all pods, ``batch`` at once, as a rollout does; return the writes of each step, and the slices."""
    names, steps = namer(), []
    pods = [pod(f"a{n:04}", f"10.1.{n >> 8}.{n & 255}") for n in range(count)]
    svc = service(ports=[{"name": "", "protocol": "TCP", "port": 80, "targetPort": 8080}])
    standing = list(plan(svc, pods, names=names).creates)
    for first in range(0, count, batch):
        fresh = [pod(f"b{n:04}", f"10.2.{n >> 8}.{n & 255}") for n in range(first, first + batch)]
        for change in ([*pods, *fresh], [*pods[batch:], *fresh]):
            pods = change
            done = plan(svc, pods, standing, names=names)
            steps.append(len(done.creates) + len(done.updates) + len(done.deletes))
            standing = carried_out(standing, done)
    return steps, standing


def test_a_rollout_of_a_thousand_pods_writes_little():
    """25 pods come, the 25 oldest go, 40 times over: one write each time."""
    steps, standing = rolled(1000, 25)
    assert steps == [1] * 80
    assert sum(len(each.endpoints) for each in standing) == 1000
    assert len(standing) <= 11


STATES = st.tuples(st.booleans(), st.booleans(), st.sampled_from([8080, 9090]))
WORLDS = st.dictionaries(st.integers(0, 8), STATES, max_size=8)


def endpoints_of(slices):
    """Return each endpoint by its group and pod."""
    return {(each.ports, endpoint.target_ref.name): endpoint for each in slices for endpoint in each.endpoints}


def bound(before, after, room):
    """Return how many slices a plan may write: see fitting's docstring."""
    old, new = endpoints_of(before), endpoints_of(after)
    gone = sum(new.get(key) != endpoint for key, endpoint in old.items())
    come = Counter(group for group, name in new.keys() - old.keys())
    return gone + sum(math.ceil(count / room) for count in come.values()) + (bool(old) != bool(new))


@settings(max_examples=150, deadline=None)
@given(st.lists(WORLDS, min_size=1, max_size=5), st.integers(1, 9))
def test_any_path_ends_in_what_the_world_says_with_few_writes_and_then_in_peace(worlds, room):
    """Whatever came before, the slices hold exactly the world's endpoints, and planning again is nothing."""
    names = namer()
    standing = list(plan(service(), [], names=names).creates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "MAX_ENDPOINTS", room)
        for world in worlds:
            pods = [
                pod(f"p{n}", f"10.244.0.{n + 1}", ready=ready, leaving=leaving, port=port)
                for n, (ready, leaving, port) in world.items()
            ]
            done = plan(service(), pods, standing, names=names)
            before, standing = standing, carried_out(standing, done)
            found = sorted(
                (endpoint.target_ref.name, endpoint.conditions.serving, endpoint.conditions.terminating, ports)
                for each in standing
                for ports in [tuple(port.port for port in each.ports)]
                for endpoint in each.endpoints
            )
            assert found == sorted((f"p{n}", *state[:2], (state[2],)) for n, state in world.items())
            assert all(len(each.endpoints) <= room for each in standing)
            assert len(done.creates) + len(done.updates) + len(done.deletes) <= bound(before, standing, room)
            assert not plan(service(), pods, standing, names=names)
