"""Deployments, ReplicaSets and the scheduler: planners by tables, and whole rollouts on a model cluster."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy.controllers.objects import Node, Pod
from kubeproxy.lab.deployments import bounds, plan_deployment
from kubeproxy.lab.replicasets import plan_replica_set, pod_from
from kubeproxy.lab.scheduler import place, stranded
from kubeproxy.lab.workloads import (
    HASH_LABEL,
    REVISION,
    Deployment,
    ReplicaSet,
    ReplicaSetStatus,
    template_hash,
)

pytestmark = pytest.mark.unit

WALL = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""


def template(image="x:1"):
    return {
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }


def deployment(replicas=4, image="x:1", generation=1, **spec):
    body = {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": template(image), **spec}
    meta = {"name": "d", "namespace": "ns", "uid": "u-d", "generation": generation}
    return msgspec.convert({"metadata": meta, "spec": body}, Deployment)


def as_set(body, *, replicas=None, ready=0, total=None):
    found = msgspec.convert(body, ReplicaSet)
    meta = msgspec.structs.replace(found.metadata, uid=f"u-{found.metadata.name}")
    size = found.spec.replicas if replicas is None else replicas
    status = ReplicaSetStatus(
        replicas=size if total is None else total, ready_replicas=ready, available_replicas=ready
    )
    return msgspec.structs.replace(
        found, metadata=meta, spec=msgspec.structs.replace(found.spec, replicas=size), status=status
    )


def made_set(image="x:1", revision="1", **counts):
    body = plan_deployment(deployment(image=image), [], WALL).create
    body["metadata"]["annotations"] = {REVISION: revision}
    return as_set(body, **counts)


def test_a_new_deployment_makes_its_replica_set():
    plan = plan_deployment(deployment(), [], WALL)
    body = plan.create
    digest = template_hash(template())
    assert body["metadata"]["name"] == f"d-{digest}"
    assert body["metadata"]["annotations"] == {REVISION: "1"}
    assert body["metadata"]["ownerReferences"][0]["controller"] is True
    assert body["spec"]["replicas"] == 4
    assert body["spec"]["selector"]["matchLabels"] == {"app": "a", HASH_LABEL: digest}
    assert body["spec"]["template"]["metadata"]["labels"] == {"app": "a", HASH_LABEL: digest}


def test_when_all_are_available_it_is_complete_and_stays_so():
    ready = made_set(ready=4)
    plan = plan_deployment(deployment(), [ready], WALL)
    assert (plan.create, plan.patches, plan.revision, plan.again_after) == (None, (), "1", None)
    status = plan.status
    counts = (status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas)
    assert counts == (4, 4, 4, 4)
    reasons = {each.type: (each.status, each.reason) for each in status.conditions}
    assert reasons == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    settled = msgspec.structs.replace(deployment(), status=status)
    assert plan_deployment(settled, [ready], WALL + 60).status is None


def test_scaling_is_one_patch():
    up = plan_deployment(deployment(6), [made_set(ready=4)], WALL)
    down = plan_deployment(deployment(2), [made_set(ready=4)], WALL)
    assert [patch["spec"] for _, patch in up.patches] == [{"replicas": 6}]
    assert [patch["spec"] for _, patch in down.patches] == [{"replicas": 2}]


@pytest.mark.parametrize(
    ("replicas", "surge", "absent", "most", "least"),
    [
        (4, "25%", "25%", 5, 3),
        (6, "25%", "25%", 8, 5),
        (1, "25%", "25%", 2, 1),
        (3, 0, 0, 3, 2),
        (3, 2, 1, 5, 2),
        (10, "0%", "100%", 10, 0),
    ],
)
def test_bounds(replicas, surge, absent, most, least):
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": absent}}
    found = bounds(deployment(replicas, strategy=strategy))
    assert (found.most, found.least) == (most, least)


def test_old_pods_wait_for_new_ones_to_serve():
    old = made_set(ready=4)
    new = as_set(plan_deployment(deployment(image="x:2"), [old], WALL).create)
    assert new.spec.replicas == 1
    first = plan_deployment(deployment(image="x:2"), [old, new], WALL)
    assert dict(first.patches)[old.metadata.name]["spec"] == {"replicas": 3}
    smaller = made_set(replicas=3, ready=3)
    grown = dict(plan_deployment(deployment(image="x:2"), [smaller, new], WALL).patches)
    assert grown[new.metadata.name]["spec"] == {"replicas": 2}
    stuck = as_set(plan_deployment(deployment(image="x:2"), [old], WALL).create, replicas=2)
    assert plan_deployment(deployment(image="x:2"), [smaller, stuck], WALL).patches == ()


def test_going_back_takes_the_old_set_up_again_with_a_new_revision():
    first, second = made_set("x:1", "1", replicas=0, total=0), made_set("x:2", "2", ready=4)
    plan = plan_deployment(deployment(image="x:1"), [first, second], WALL)
    assert plan.create is None
    assert dict(plan.patches)[first.metadata.name] == {
        "spec": {"replicas": 1},
        "metadata": {"annotations": {REVISION: "3"}},
    }
    assert plan.revision == "3"


def test_recreate_ends_the_old_before_it_makes_the_new():
    spec = {"image": "x:2", "strategy": {"type": "Recreate"}}
    old = made_set(ready=4)
    waiting = plan_deployment(deployment(**spec), [old], WALL)
    assert waiting.create is None
    gone = made_set(replicas=0, total=0)
    assert plan_deployment(deployment(**spec), [gone], WALL).create["spec"]["replicas"] == 4


def test_a_paused_deployment_rolls_nothing_out():
    plan = plan_deployment(deployment(image="x:2", paused=True), [made_set(ready=4)], WALL)
    assert (plan.create, plan.patches) == (None, ())


def test_the_deadline_is_told():
    first = plan_deployment(deployment(), [made_set()], WALL)
    assert first.again_after == 600
    late = msgspec.structs.replace(deployment(), status=first.status)
    plan = plan_deployment(late, [made_set()], WALL + 600)
    reasons = {each.type: (each.status, each.reason) for each in plan.status.conditions}
    assert reasons["Progressing"] == ("False", "ProgressDeadlineExceeded")


def test_history_is_limited():
    old = [made_set(f"y:{n}", str(n), replicas=0, total=0) for n in range(1, 5)]
    current = made_set("x:1", "5", ready=4)
    plan = plan_deployment(deployment(revisionHistoryLimit=2), [*old, current], WALL)
    assert plan.deletes == (old[0].metadata.name, old[1].metadata.name)


def pod(name, node="n1", *, ready=True, leaving=False, phase="Running", owner="rs", since=0, **spec):
    meta = {"name": name, "namespace": "ns", "uid": f"u-{name}", "labels": {"app": "a"}}
    meta["ownerReferences"] = [{"kind": "ReplicaSet", "name": owner, "uid": f"u-{owner}", "controller": True}]
    if leaving:
        meta["deletionTimestamp"] = "2026-01-01T00:00:09Z"
    moment = f"2027-01-15T08:{since:02}:00Z"
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": moment}
    body = {"metadata": meta, "spec": {"nodeName": node, **spec}}
    return msgspec.convert({**body, "status": {"phase": phase, "conditions": [condition]}}, Pod)


def test_a_pod_on_its_way_out_is_replaced_at_once():
    pods = [pod("p1"), pod("p2"), pod("p3", leaving=True), pod("p4", phase="Failed")]
    plan = plan_replica_set(made_set(), pods, WALL)
    assert (plan.creates, plan.deletes) == (2, ())
    assert (plan.status.replicas, plan.status.ready_replicas) == (2, 2)


def test_the_least_useful_go_first():
    pods = [
        pod("old", "n1", since=1),
        pod("twin", "n1", since=2),
        pod("alone", "n2", since=3),
        pod("unready", "n2", ready=False),
        pod("unplaced", "", ready=False, phase="Pending"),
    ]
    plan = plan_replica_set(made_set(replicas=2), pods, WALL)
    assert plan.deletes == ("unplaced", "unready", "twin")


def test_available_only_after_min_ready_seconds():
    body = plan_deployment(deployment(minReadySeconds=30), [], WALL).create
    fresh = [pod(f"p{n}") for n in range(4)]
    plan = plan_replica_set(as_set(body), fresh, WALL + 10)
    assert (plan.status.ready_replicas, plan.status.available_replicas, plan.again_after) == (4, 0, 20.0)
    assert plan_replica_set(as_set(body), fresh, WALL + 30).status.available_replicas == 4


def test_pods_carry_the_template_and_their_owner():
    body = pod_from(made_set(), "d-x-abcde")
    assert body["metadata"]["labels"][HASH_LABEL] == template_hash(template())
    assert body["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
    assert body["spec"]["containers"][0]["image"] == "x:1"


def node(name, *, ready=True, cordoned=False, labels=None):
    body = {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"unschedulable": cordoned},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }
    return msgspec.convert(body, Node)


def test_pods_spread_over_ready_nodes():
    nodes = [node("n1"), node("n2"), node("n3", ready=False), node("n4", cordoned=True)]
    found = place([pod(f"p{n}", "") for n in range(4)], nodes)
    assert [chosen for _, chosen in found.bindings] == ["n1", "n2", "n1", "n2"]


def test_owners_are_spread_before_the_total_is():
    busy = [pod(f"other{n}", "n1", owner="other") for n in range(5)]
    mine = [pod("m1", "n2"), pod("m2", "")]
    found = place([*busy, *mine], [node("n1"), node("n2")])
    assert [chosen for _, chosen in found.bindings] == ["n1"]


def test_a_pod_that_fits_nowhere_is_told_why():
    found = place([pod("p", "", nodeSelector={"disk": "ssd"})], [node("n1")])
    assert found.bindings == ()
    assert "didn't match" in found.homeless[0][1]
    assert "not ready" in place([pod("p", "")], [node("n1", ready=False)]).homeless[0][1]


def test_pods_on_vanished_nodes_are_stranded():
    pods = [pod("a", "n1"), pod("b", "gone"), pod("c", "")]
    assert [each.metadata.name for each in stranded(pods, {"n1"})] == ["b"]


class ModelCluster:
    """ReplicaSets whose pods become ready one step after they are made, and vanish at once when told to."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.sets = {}
        self.status = wanted.status

    def step(self, unready):
        """Let every controller act once; ``unready`` new pods become ready only later."""
        current = msgspec.structs.replace(self.wanted, status=self.status)
        plan = plan_deployment(current, list(self.sets.values()), WALL)
        if plan.create is not None:
            fresh = as_set(plan.create, total=0)
            self.sets[fresh.metadata.name] = fresh
        for name, patch in plan.patches:
            spec = self.sets[name].spec
            size = patch.get("spec", {}).get("replicas", spec.replicas)
            self.sets[name] = msgspec.structs.replace(
                self.sets[name], spec=msgspec.structs.replace(spec, replicas=size)
            )
        self.status = plan.status or self.status
        for name, each in self.sets.items():
            size = each.spec.replicas
            held = max(0, size - unready) if size > each.status.available_replicas else size
            ready = max(min(size, each.status.available_replicas), held)
            status = ReplicaSetStatus(replicas=size, ready_replicas=ready, available_replicas=ready)
            self.sets[name] = msgspec.structs.replace(each, status=status)

    @property
    def totals(self):
        return (
            sum(each.spec.replicas for each in self.sets.values()),
            sum(each.status.available_replicas for each in self.sets.values()),
        )


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 12),
    st.sampled_from(["25%", "50%", 0, 1, 3]),
    st.sampled_from(["25%", "0%", 0, 1, 2]),
    st.lists(st.integers(0, 2), max_size=20),
)
def test_a_rollout_stays_in_bounds_and_ends(replicas, surge, absent, delays):
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": absent}}
    cluster = ModelCluster(deployment(replicas, strategy=strategy))
    for _ in range(6):
        cluster.step(0)
    assert cluster.totals == (replicas, replicas)
    cluster.wanted = deployment(replicas, image="x:2", generation=2, strategy=strategy)
    limits = bounds(cluster.wanted)
    for unready in [*delays, *([0] * 60)]:
        cluster.step(unready)
        total, available = cluster.totals
        assert total <= limits.most
        assert available >= limits.least
    sizes = {
        each.spec.template["spec"]["containers"][0]["image"]: each.spec.replicas for each in cluster.sets.values()
    }
    assert sizes == {"x:1": 0, "x:2": replicas}
    reasons = {each.type: each.reason for each in cluster.status.conditions}
    assert reasons["Progressing"] == "NewReplicaSetAvailable"
