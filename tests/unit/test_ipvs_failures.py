"""The ipvs backend when the kernel refuses or others meddle: who is blamed, what stands, how it recovers."""

import errno

import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.ipvs import translator
from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import Protocol, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import web, web_slice
from tests.ipvs_node import NODE_IP, VIP, Node

pytestmark = pytest.mark.unit

BAD = ServerKey(Protocol.TCP, "10.96.6.6", 80)
ONE = Destination("10.244.1.1", 8080)


def bad_and_good() -> Node:
    return Node(
        web(),
        web_slice(),
        service("bad", "10.96.6.6"),
        endpoint_slice("bad", "80", ["10.244.6.6@node1"]),
    )


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM, errno.EBUSY])
def test_a_moments_refusal_fails_the_sync_and_the_next_full_one_mends_it(code: int) -> None:
    node = Node(web(), web_slice())
    node.full()
    node.servers.moods = [code]
    with pytest.raises(SyncFailed, match="a full sync will follow") as caught:
        node.put(web_slice("10.244.1.9@node2"))
    assert caught.value.culprits == ()
    assert node.backend.needs_full
    assert node.backend.observe() == ""
    node.full()
    assert not node.backend.needs_full
    assert node.weights() is not None
    assert node.weights()["10.244.1.9"] == 1  # type: ignore[index]


def test_a_service_that_ipvs_will_not_have_is_put_aside_and_the_others_are_served() -> None:
    node = bad_and_good()
    node.servers.refused = {BAD: errno.EPROTONOSUPPORT}
    with pytest.raises(SyncFailed, match=r"default/bad: .*10\.96\.6\.6") as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/bad"]
    applied = node.full()
    assert [str(each) for each in applied.quarantined] == ["default/bad"]
    assert applied.ports == 1
    assert node.weights() is not None
    assert "10.96.6.6" not in node.addresses.on.routes
    assert node.partial({("default", "bad")}) is None  # still refused, so not tried again
    node.servers.refused = {}
    later = node.put(endpoint_slice("bad", "80", ["10.244.6.7@node1"]))
    assert later is not None
    assert (later.quarantined, later.ports) == ({}, 2)


def test_a_change_that_is_refused_is_put_aside_too() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.servers.refused = {BAD: errno.EINVAL}
    with pytest.raises(SyncFailed) as caught:
        node.put(service("bad", "10.96.6.6"))
    assert [str(each) for each in caught.value.culprits] == ["default/bad"]
    assert len(node.full().quarantined) == 1
    applied = node.remove("bad")
    assert applied is not None
    assert applied.quarantined == {}


def test_a_set_that_refuses_an_entry_tells_whose_it_is() -> None:
    node = bad_and_good()
    node.sets.refused = {("10.96.6.6", Protocol.TCP, 80): "the set is full"}
    with pytest.raises(SyncFailed, match="the set is full") as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/bad"]
    assert node.full().ports == 1


@pytest.mark.parametrize("member", ["10.96.6.6", ("198.18.0.6", Protocol.TCP, 80)])
def test_a_full_set_of_what_follows_from_a_service_tells_whose_it_is(member: Member) -> None:
    policy = TrafficPolicy.LOCAL
    bad = service("bad", "10.96.6.6", external_ips=("198.18.0.6",), external_policy=policy)
    node = Node(web(), web_slice(), bad, endpoint_slice("bad", "80", ["10.244.6.6@node1"]))
    node.sets.refused = {member: "the set is full"}
    with pytest.raises(SyncFailed, match="the set is full") as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/bad"]
    assert node.full().ports == 1
    assert node.weights() is not None


def test_an_address_that_cannot_be_made_local_tells_whose_it_is() -> None:
    node = bad_and_good()
    node.addresses.refused = {"10.96.6.6": "Invalid argument"}
    with pytest.raises(SyncFailed, match="Invalid argument") as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/bad"]
    assert node.full().ports == 1
    assert node.weights(BAD) is None


@pytest.mark.parametrize("part", ["sets", "addresses", "tables"])
def test_a_part_of_the_kernel_that_fails_altogether_is_nobodys_fault(part: str) -> None:
    node = bad_and_good()
    if part == "tables":
        node.tables.fail_next = "Another app is currently holding the xtables lock"
    else:
        getattr(node, part).failures = [KernelError("no buffer space")]
    with pytest.raises(SyncFailed, match=r"no buffer space|xtables lock") as caught:
        node.full()
    assert caught.value.culprits == ()
    assert node.full().ports == 2


def test_a_kernel_without_ipvs_is_told_and_nothing_is_made() -> None:
    node = Node(web(), web_slice())
    node.servers.present = False
    with pytest.raises(SyncFailed, match="modprobe ip_vs"):
        node.full()
    assert node.sets.sets == {}
    assert node.addresses.on.kind is None
    node.backend.cleanup()  # nothing to remove, and no complaint
    node.servers.present = True  # somebody has loaded it
    assert node.full().ports == 1


def test_no_rules_stand_before_what_they_lead_to() -> None:
    node = Node(web(), web_slice())
    node.servers.moods = [errno.ENOMEM]
    with pytest.raises(SyncFailed):
        node.full()
    assert node.tables.restored == []


def test_a_scheduler_that_the_kernel_lacks_is_replaced_and_told() -> None:
    node = Node(web(), web_slice(), ipvs=IpvsSettings(scheduler="nq"))
    node.servers.schedulers.discard("nq")
    applied = node.full()
    assert node.servers.servers(Family.V4)[VIP].scheduler == "rr"
    assert applied.quarantined == {}
    (note,) = applied.notes.values()
    assert "modprobe ip_vs_nq" in note
    again = node.put(web_slice("10.244.1.9@node2"))
    assert again is not None
    assert len(again.notes) == 1
    node.servers.schedulers.add("nq")  # somebody has loaded it
    assert node.full().notes == {}
    assert node.servers.servers(Family.V4)[VIP].scheduler == "nq"


def test_a_costly_scheduler_serves_as_many_as_the_kernels_memory_is_meant_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(translator, "MOST_COSTS", 25)
    node = Node(*(service(f"s{i}", f"10.96.0.{i}", scheduler="mh") for i in range(1, 4)))

    def name(service: str) -> ServicePortName:
        return ServicePortName("default", service, "", Protocol.TCP)

    def schedulers() -> list[str]:
        return [each.scheduler for _, each in sorted(node.servers.servers(Family.V4).items(), key=str)]

    notes = node.full().notes
    assert schedulers() == ["mh", "mh", "sh"]
    assert [(str(each), "sh serves instead" in why) for each, why in notes.items()] == [("default/s3", True)]
    assert [bool(node.replaced.of(Family.V4, name(f"s{i}"))) for i in range(1, 4)] == [False, False, True]
    # Who comes later has what others give back, when it changes.
    node.remove("s1")
    applied = node.put(endpoint_slice("s3", "80", ["10.244.1.1@node1"]))
    assert applied is not None
    assert (applied.notes, schedulers()) == ({}, ["mh", "mh"])
    assert node.replaced.of(Family.V4, name("s3")) == ()
    chosen = Node(*(service(f"s{i}", f"10.96.0.{i}") for i in range(3)), ipvs=IpvsSettings(scheduler="mh"))
    assert chosen.full().notes == {}


def test_a_lacking_scheduler_is_found_out_by_a_change_too() -> None:
    node = Node(ipvs=IpvsSettings(scheduler="nq"))
    node.full()
    node.servers.schedulers.discard("nq")
    node.world.apply_slices({("default", "web"): web_slice()})
    with pytest.raises(SyncFailed, match="ip_vs_nq"):
        node.put(web())
    assert len(node.full().notes) == 1
    assert node.weights() == {"10.244.0.2": 1, "10.244.1.2": 1}


def test_a_kernel_without_even_the_default_scheduler_is_told() -> None:
    node = Node(web(), web_slice())
    node.servers.schedulers.discard("rr")
    with pytest.raises(SyncFailed, match="modprobe ip_vs_rr"):
        node.full()


def foreign(node: Node, key: ServerKey = VIP, address: str = "192.0.2.9") -> None:
    server = Server(key)
    codes = node.servers.run(
        [Command(Verb.ADD_SERVER, server), Command(Verb.ADD_DESTINATION, server, Destination(address, 8080))]
    )
    assert codes == [0, 0]


def test_somebody_elses_virtual_server_in_our_place_stays_and_is_told() -> None:
    node = Node(web(node_port=30080), web_slice())
    foreign(node)
    applied = node.full()
    assert node.weights() == {"192.0.2.9": 1}
    (note,) = applied.notes.values()
    assert "tcp 10.96.0.1:80" in note
    assert node.weights(ServerKey(Protocol.TCP, NODE_IP, 30080)) is not None  # the rest is served
    node.put(web_slice("10.244.1.9@node2"))
    assert node.weights() == {"192.0.2.9": 1}
    assert node.backend.observe() == ""
    node.servers.run([Command(Verb.DELETE_SERVER, Server(VIP))])
    assert "in the way" in node.backend.observe()
    assert node.full().notes == {}
    assert node.weights() == {"10.244.1.9": 1}


def test_one_that_appears_between_two_looks_is_not_taken_for_ours() -> None:
    node = Node()
    node.full()
    foreign(node)
    with pytest.raises(SyncFailed):
        node.put(web(), web_slice())
    assert node.weights() == {"192.0.2.9": 1}
    assert node.members(Set.SERVERS) == set()
    assert len(node.full().notes) == 1
    node.remove("web")
    assert node.backend.observe() == ""
    node.restart()
    node.full()
    assert node.weights() == {"192.0.2.9": 1}


def test_ours_is_known_though_somebody_emptied_our_set() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    node.members(Set.SERVERS).clear()
    assert "KUBE-VIRTUAL-SERVERS" in node.backend.observe()
    node.full()
    assert len(node.members(Set.SERVERS)) == 1
    node.members(Set.SERVERS).clear()
    node.restart()  # nobody remembers now, but it leads nowhere but where ours shall
    assert node.full().notes == {}
    node.remove("web")
    assert node.weights() is None


@pytest.mark.parametrize(
    "command",
    [
        Command(Verb.DELETE_SERVER, Server(VIP)),
        Command(Verb.ADD_DESTINATION, Server(VIP), Destination("10.244.1.9", 8080)),
    ],
)
def test_a_change_that_meets_an_edited_table_has_everything_looked_at(command: Command) -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    node.servers.run([command])
    with pytest.raises(SyncFailed) as caught:
        node.put(web_slice("10.244.1.1@node2", "10.244.1.9@node2"))
    assert caught.value.culprits == ()
    node.full()
    assert node.weights() == {"10.244.1.1": 1, "10.244.1.9": 1}


def test_a_destination_that_somebody_deleted_may_leave() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    node.servers.run([Command(Verb.DELETE_DESTINATION, Server(VIP), ONE)])
    node.put(web_slice("10.244.1.2@node2"))
    assert node.weights() == {"10.244.1.2": 1}
    assert node.backend.observe() == ""


def test_what_cannot_be_deleted_when_it_has_drained_has_everything_looked_at() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    node.put(web_slice("10.244.1.1@node2"))
    node.servers.moods = [errno.ENOBUFS]
    assert "drained" in node.backend.observe()
    node.full()
    assert node.backend.observe() == ""
    assert node.weights() == {"10.244.1.1": 1}
