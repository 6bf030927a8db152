"""What a real kernel refuses or takes from ipvs mode: endpoints, entries of full sets, IPv6 on a device."""

import pytest

from kubeproxy.dataplane.base import Applied, SyncFailed
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import Service, ServiceType, TrafficPolicy
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.takeover_bed import EXTERNAL, NODE_PORT, VIP
from tests.scenarios.addresses import HOSTS, virtual
from tests.scenarios.lab import Lab
from tests.uml.ipvs_bed import Inside, on_node

V4, V6 = Family.V4, Family.V6
BE1, BE3 = HOSTS["be1"], HOSTS["be3"]
BROADCAST = "10.250.0.255"


def change(backend: Inside, served: World, name: str, new: Service | None) -> Applied:
    """Bring one Service's change in."""
    touched = served.apply_services({("default", name): new})
    plan = backend.diff(wanted(served, backend.settings, backend.family, touched), frozenset(touched))
    assert plan is not None
    return backend.apply(plan)


def full(backend: Inside, served: World) -> Applied:
    plan = backend.diff(wanted(served, backend.settings, backend.family), None)
    assert plan is not None
    return backend.apply(plan)


def many(family: Family) -> World:
    """Return Services with which hardly a set is empty."""

    def at(number: int) -> str:
        return virtual("cluster", family, 210, number)

    policy = TrafficPolicy.LOCAL
    ranges = ("192.0.2.0/24",) if family is V4 else ("2001:db8::/48",)
    everywhere = [f"{BE1.address(family)}@node1", f"{BE3.address(family)}@node2"]
    return world(
        service("web", at(1), node_port=NODE_PORT, load_balancer_ips=(EXTERNAL[family],), source_ranges=ranges),
        endpoint_slice("web", "80", everywhere),
        service(
            "here",
            at(2),
            external_ips=(at(3),),
            load_balancer_ips=(at(4),),
            type=ServiceType.LOAD_BALANCER,
            external_policy=policy,
            health_check_node_port=32000,
        ),
        endpoint_slice("here", "80", everywhere),
        service("away", at(5), external_ips=(at(6),), external_policy=policy),
        endpoint_slice("away", "80", everywhere[1:]),
        service("empty", at(7)),
    )


@pytest.mark.parametrize("family", Family)
def test_each_entry_that_is_exchanged_is_found_and_none_that_is_ours(lab: Lab, family: Family) -> None:
    backend = Inside(lab, "ipvs", family)
    served = many(family)
    full(backend, served)
    assert [backend.observe() for _ in Set] == [""] * len(Set)
    sets = Ipset(family)
    for which in Set:
        name = set_name(family, which)
        member, *_ = lab.run("node", lambda name=name: sets.members(name))
        theirs: Member
        stranger = virtual("cluster", family, 211, 7)
        match member:
            case int():
                theirs = 7
            case str():
                theirs = stranger
            case (_, *place):
                theirs = (stranger, *place)  # type: ignore[assignment]
        lab.run("node", lambda name=name, member=member: sets.delete(name, [member]))
        lab.run("node", lambda name=name, theirs=theirs: sets.add(name, [theirs]))
        found = [backend.observe() for _ in Set]
        assert name in "".join(found), (name, found)
        full(backend, served)
        assert theirs not in lab.run("node", lambda name=name: sets.members(name))
    assert [backend.observe() for _ in Set] == [""] * len(Set)


def test_a_broadcast_address_is_left_out_alone(lab: Lab) -> None:
    on_node(lab, "ip", "address", "add", "10.250.0.1/24", "broadcast", BROADCAST, "dev", "lo")
    backend = Inside(lab, "ipvs", V4)
    served = world(service("web", VIP[V4]), endpoint_slice("web", "80", [BE1.v4, BROADCAST]))
    applied = full(backend, served)
    assert applied.quarantined == {}
    assert [BROADCAST in note for note in applied.notes.values()] == [True]
    servers = on_node(lab, "ipvsadm", "-S", "-n")
    assert f"-a -t {VIP[V4]}:80 -r {BE1.v4}:80" in servers
    assert BROADCAST not in servers
    assert backend.observe() == ""
    # It is anybody's now.
    on_node(lab, "ip", "address", "del", "10.250.0.1/24", "dev", "lo")
    assert "addresses have changed" in backend.observe()
    assert full(backend, served).notes == {}
    assert f"-r {BROADCAST}:80" in on_node(lab, "ipvsadm", "-S", "-n")


def test_who_a_full_set_had_no_room_for_is_let_in(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetType.PORTS, "max_elements", 2)
    backend = Inside(lab, "ipvs", V4)
    ips = [virtual("cluster", V4, 210, number) for number in range(1, 5)]
    served = world(*(service(f"s{number}", ip) for number, ip in enumerate(ips[:2])))
    full(backend, served)
    with pytest.raises(SyncFailed, match="the set is full"):
        change(backend, served, "s2", service("s2", ips[2]))
    assert [name.name for name in full(backend, served).quarantined] == ["s2"]
    assert len(change(backend, served, "s3", service("s3", ips[3])).quarantined) == 2
    assert [name.name for name in change(backend, served, "s0", None).quarantined] == ["s3"]
    assert change(backend, served, "s1", None).quarantined == {}
    servers = on_node(lab, "ipvsadm", "-S", "-n")
    assert [f"-A -t {ip}:80" in servers for ip in ips] == [False, False, True, True]
    assert backend.observe() == ""


def test_ipv6_is_served_where_new_devices_have_none(lab: Lab) -> None:
    on_node(lab, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
    backend = Inside(lab, "ipvs", V6)
    applied = full(backend, world(service("web", VIP[V6]), endpoint_slice("web", "80", [BE1.v6])))
    assert (applied.quarantined, applied.ports) == ({}, 1)
    assert VIP[V6] in on_node(lab, "ip", "-6", "route", "show", "table", "local", "dev", "kube-ipvs0")


def test_this_kernel_has_both_families(lab: Lab) -> None:
    assert [lab.run("node", lambda family=family: Ipvs().serves(family)) for family in Family] == [True, True]
