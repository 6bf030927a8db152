"""A rolling replacement of all endpoints of a Service on a busy node: no connection is lost."""

from collections.abc import Sequence
from typing import Any

from kubeproxy.model.addresses import Family
from tests.netns.takeover_bed import Machine, routes, slice_of
from tests.netns.traffic import ECHO_PORT, Traffic, lost
from tests.scenarios.addresses import HOSTS
from tests.scenarios.lab import Lab
from tests.uml.ipvs_bed import servers
from tests.uml.rolling_pods import Pod
from tests.uml.test_ipvs_takeover import RATE, Record
from tests.waiting import until

TURNS = (("be1", "be3"), ("be2", "be4"), ("be3", "be1"), ("be4", "be2"))
"""Who leaves, and who comes for it; at the end every pod was replaced, and every address had two."""


def publish(machine: Machine, ready: Sequence[str], terminating: str = "") -> None:
    """Say in the EndpointSlices who is there."""
    for family in Family:
        value: dict[str, Any] = slice_of(family)
        value["endpoints"] = [{"addresses": [HOSTS[name].address(family)], "nodeName": "node1"} for name in ready]
        if terminating:
            conditions = {"ready": False, "serving": True, "terminating": True}
            leaving = {"addresses": [HOSTS[terminating].address(family)], "conditions": conditions}
            value["endpoints"].append(leaving)
        machine.put_slice(value)


def serving(lab: Lab) -> set[str]:
    """Return who gets new connections, by the kernel."""
    lines = [line for line in servers(lab) if f":{ECHO_PORT} " in line and "-w 1" in line]
    return {
        name
        for name in ("be1", "be2", "be3", "be4")
        if any(f"-r {HOSTS[name].v4}:" in line or f"-r [{HOSTS[name].v6}]:" in line for line in lines)
    }


def test_a_rolling_replacement_loses_no_connection(lab: Lab, machine: Machine, record_property: Record) -> None:
    pods = {name: Pod(lab, name) for name in ("be1", "be2")}
    every = list(pods.values())
    publish(machine, list(pods))
    machine.agent("ipvs")
    with Traffic(lab, (), routes(Family), RATE, held=0) as running:
        running.settle(1)
        for leaves, comes in TURNS:
            pods[comes] = Pod(lab, comes)
            every.append(pods[comes])
            publish(machine, list(pods))
            until(lambda comes=comes: comes in serving(lab), f"{comes} serves")  # type: ignore[misc]
            old = pods.pop(leaves)
            publish(machine, list(pods), terminating=leaves)
            running.settle(0.2)
            publish(machine, list(pods))
            old.ask_to_end()
            old.wait()
            assert leaves not in serving(lab)
        running.settle(1)
        found = running.verdict()
        assert not lost(found), (found, running.complaints[:5])
    for each in pods.values():
        each.ask_to_end()
        each.wait()
    record_property("traffic", found)
    record_property("answered by each pod", [(each.name, each.answered) for each in every])
    assert [each.cut_off for each in every] == [0] * 6
    assert all(each.answered > 50 for each in every)
