"""Leases to kernel state, the reconciler that keeps it, and the choice of the underlay, on a fake kernel."""

import asyncio
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest

from flannel.backends.base import BackendError, Context
from flannel.backends.hostgw import HostGatewayBackend
from flannel.backends.vxlan import VxlanBackend, random_mac
from flannel.lease import Lease, LeaseAttrs, encode_vtep, subnet_key
from flannel.masquerade import MasqueradeRules, forward_chain, masquerade_chain
from flannel.netconf import parse_netconf
from flannel.overlay import ROUTE_PROTOCOL, Underlay, usable_peers
from flannel.reconciler import CHECK_SECONDS, Reconciler
from flannel.underlay import NoUnderlay, Wish, find_underlay
from kubeproxy.clock import ManualClock
from kubeproxy.kernel.exec import KernelError, Result
from kubeproxy.kernel.fake_interfaces import FakeInterfaces
from kubeproxy.kernel.interfaces import HostAddress
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.links import Address, Forwarding, Link, Neighbour, Route, Verb, Wiring
from kubeproxy.model.addresses import Family
from tests.waiting import until_stepped

pytestmark = pytest.mark.unit

NETCONF = parse_netconf(b'{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}')
ETH0 = Link(name="eth0", mtu=1500, mac="0a:00:00:00:00:01")
UNDERLAY = Underlay(
    link="eth0", address=IPv4Address("192.168.56.11"), mtu=1500, public_ip=IPv4Address("192.168.56.11")
)


def lease(subnet: str, host: int, *, mac: str = "", kind: str = "vxlan", data: bytes = b"") -> Lease:
    network = IPv4Network(subnet)
    mac = mac or f"0e:00:00:00:00:{host:02x}"
    attrs = LeaseAttrs(
        public_ip=IPv4Address(f"192.168.56.{host}"), backend_type=kind, backend_data=data or encode_vtep(1, mac)
    )
    return Lease(subnet=network, attrs=attrs, key=f"/coreos.com/network/subnets/{subnet_key(network)}")


OWN = lease("10.244.1.0/24", 11)
PEER = lease("10.244.2.0/24", 12)


def context(kernel: FakeInterfaces, options: str = "") -> Context:
    text = f'{{"Network":"10.244.0.0/16","Backend":{{"Type":"vxlan"{options}}}}}'
    return Context(netconf=parse_netconf(text.encode()), underlay=UNDERLAY, interfaces=kernel)


# --- which leases may be used ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lease("10.245.0.0/24", 13), "not inside the Network"),
        (lease("0.0.0.0/0", 13), "not inside the Network"),
        (lease("10.244.0.0/16", 13), "overlaps our own subnet"),
        (lease("10.244.3.0/24", 11), "our own public address"),
        (lease("10.244.3.0/24", 13, kind="host-gw"), "backend type 'host-gw'"),
        (lease("10.244.3.0/24", 13, data=b'{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}'), "no unicast MAC"),
        (lease("10.244.3.0/24", 13, mac="0e:00:00:00:00:0c"), "VtepMAC 0e:00:00:00:00:0c of another node"),
        (msgspec.structs.replace(lease("10.244.2.0/24", 13), key="z"), "is also leased as"),
    ],
)
def test_a_lease_that_would_hijack_is_refused(bad, reason):
    peers = usable_peers(NETCONF, OWN, "vxlan", [bad, PEER])
    assert peers.usable == (PEER,)
    assert [reason in complaint for complaint in peers.refused] == [True]


def test_the_udp_backend_takes_leases_of_any_type():
    assert usable_peers(NETCONF, OWN, "", [lease("10.244.3.0/24", 13, kind="")]).usable


# --- vxlan -----------------------------------------------------------------------------------------------


def test_a_vxlan_lease_is_one_route_one_neighbour_one_forwarding_entry():
    kernel = FakeInterfaces(Wiring(links=(ETH0,)))
    backend = VxlanBackend(context(kernel))
    backend.attributes(None)
    wiring = backend.wiring(OWN, (PEER,))
    assert wiring.entries == {
        Address(link="flannel.1", address="10.244.1.0/32"),
        Neighbour(link="flannel.1", address="10.244.2.0", mac="0e:00:00:00:00:0c"),
        Forwarding(link="flannel.1", mac="0e:00:00:00:00:0c", remote="192.168.56.12"),
        Route(
            destination="10.244.2.0/24",
            link="flannel.1",
            gateway="10.244.2.0",
            onlink=True,
            protocol=ROUTE_PROTOCOL,
        ),
    }


def test_the_mac_is_the_devices_else_the_leases_else_random():
    kernel = FakeInterfaces(Wiring(links=(ETH0,)))
    fresh = VxlanBackend(context(kernel)).attributes(None)
    assert fresh.backend_data != VxlanBackend(context(kernel)).attributes(None).backend_data
    assert VxlanBackend(context(kernel)).attributes(fresh) == fresh
    backend = VxlanBackend(context(kernel))
    backend.attributes(None)
    device = msgspec.structs.replace(backend.wiring(OWN, ()).links[0], mac="0e:00:00:00:00:77")
    kernel.links[device.name] = device
    assert b"0e:00:00:00:00:77" in VxlanBackend(context(kernel)).attributes(fresh).backend_data


def test_random_macs_are_local_and_unicast():
    assert all(int(random_mac()[:2], 16) & 0b11 == 0b10 for _ in range(100))


def test_direct_routing_takes_a_plain_route_where_the_node_is_a_neighbour():
    kernel = FakeInterfaces(Wiring(links=(ETH0,)))
    kernel.routes = {
        "192.168.56.12": Route(destination="192.168.56.12/32", link="eth0"),
        "192.168.56.13": Route(destination="192.168.56.13/32", link="eth0", gateway="192.168.56.1"),
    }
    backend = VxlanBackend(context(kernel, ',"DirectRouting":true'))
    far = lease("10.244.3.0/24", 13)
    entries = backend.wiring(OWN, (PEER, far)).entries
    assert (
        Route(destination="10.244.2.0/24", link="eth0", gateway="192.168.56.12", protocol=ROUTE_PROTOCOL)
        in entries
    )
    assert {entry.address for entry in entries if isinstance(entry, Neighbour)} == {"10.244.3.0"}


def test_host_gw_refuses_a_public_address_behind_nat():
    behind = msgspec.structs.replace(UNDERLAY, public_ip=IPv4Address("203.0.113.7"))
    with pytest.raises(BackendError, match="NAT"):
        HostGatewayBackend(Context(netconf=NETCONF, underlay=behind, interfaces=FakeInterfaces(Wiring())))


# --- the reconciler --------------------------------------------------------------------------------------


async def running(kernel, clock, backend):
    reconciler = Reconciler(backend, kernel, clock)
    return reconciler, asyncio.create_task(reconciler.run())


async def stop(task):
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def kernel():
    return FakeInterfaces(Wiring(links=(ETH0,)))


async def test_stale_state_goes_and_wanted_state_comes(kernel):
    clock, backend = ManualClock(), VxlanBackend(context(kernel))
    backend.attributes(None)
    old = backend.wiring(OWN, (lease("10.244.9.0/24", 19),))
    foreign = Route(destination="172.16.0.0/12", link="eth0", gateway="192.168.56.1", protocol=3)
    kernel.links[old.links[0].name] = msgspec.structs.replace(old.links[0], mtu=1400)
    kernel.entries = {str(entry): entry for entry in ()}
    for entry in (*old.entries, foreign):
        kernel.entries.update(FakeInterfaces(Wiring(entries=frozenset({entry}))).entries)
    reconciler, task = await running(kernel, clock, backend)
    reconciler.want(OWN, (PEER,))
    await until_stepped(reconciler.in_step.is_set, clock)
    wiring = backend.wiring(OWN, (PEER,))
    assert set(kernel.entries.values()) == {*wiring.entries, foreign}
    assert kernel.links["flannel.1"] == wiring.links[0]
    await stop(task)


async def test_a_deleted_device_comes_back_whole_with_its_mac(kernel):
    clock, backend = ManualClock(), VxlanBackend(context(kernel))
    attrs = backend.attributes(None)
    reconciler, task = await running(kernel, clock, backend)
    reconciler.want(OWN, (PEER,))
    await until_stepped(reconciler.in_step.is_set, clock)
    before = dict(kernel.entries)
    kernel.remove_link("flannel.1")
    kernel.changed()
    await until_stepped(lambda: kernel.entries == before, clock)
    assert kernel.links["flannel.1"].mac in attrs.backend_data.decode()
    await stop(task)


async def test_a_flushed_entry_is_found_without_any_event(kernel):
    clock, backend = ManualClock(), VxlanBackend(context(kernel))
    backend.attributes(None)
    reconciler, task = await running(kernel, clock, backend)
    reconciler.want(OWN, (PEER,))
    await until_stepped(reconciler.in_step.is_set, clock)
    before = dict(kernel.entries)
    kernel.entries.popitem()
    await clock.step(2 * CHECK_SECONDS)
    await until_stepped(lambda: kernel.entries == before, clock)
    await stop(task)


async def test_a_refused_step_is_tried_again_and_the_rest_is_done(kernel, caplog):
    clock, backend = ManualClock(), VxlanBackend(context(kernel))
    backend.attributes(None)
    kernel.refuse = lambda step: isinstance(step.item, Neighbour) and step.verb is Verb.PUT
    reconciler, task = await running(kernel, clock, backend)
    reconciler.want(OWN, (PEER,))
    await until_stepped(lambda: reconciler.failures >= 3, clock)
    assert not reconciler.in_step.is_set()
    assert len([record for record in caplog.records if "refused" in record.message]) == 1
    assert any(isinstance(entry, Route) for entry in kernel.entries.values())
    kernel.refuse = lambda step: False
    await until_stepped(reconciler.in_step.is_set, clock)
    await stop(task)


# --- the underlay ----------------------------------------------------------------------------------------


def host(link: str, address: str, *, global_scope: bool = True, settled: bool = True) -> HostAddress:
    return HostAddress(link=link, address=address, prefix=24, global_scope=global_scope, settled=settled)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(), "192.168.56.11"),
        (Wish(names=("eth1",)), "10.0.0.5"),
        (Wish(names=("absent", "10.0.0.6")), "10.0.0.6"),
        (Wish(patterns=(r"^10\.0\.0\.6$",)), "10.0.0.6"),
        (Wish(patterns=("eth[1]",)), "10.0.0.5"),
        (Wish(can_reach="10.0.0.99"), "10.0.0.5"),
    ],
)
def test_the_underlay_is_chosen_as_flannel_does(wish, expected):
    kernel = FakeInterfaces(Wiring(links=(ETH0, Link(name="eth1", mtu=9000))))
    kernel.addresses = [
        host("eth1", "169.254.1.1", global_scope=False),
        host("eth1", "10.0.0.6", settled=False),
        host("eth1", "10.0.0.5"),
        host("eth0", "192.168.56.11"),
    ]
    kernel.routes = {
        "192.0.2.1": Route(destination="192.0.2.1/32", link="eth0", gateway="192.168.56.1"),
        "10.0.0.99": Route(destination="10.0.0.99/32", link="eth1"),
    }
    found = find_underlay(kernel, wish)
    assert str(found.address) == expected == str(found.public_ip)
    assert found.mtu == (1500 if found.link == "eth0" else 9000)


@pytest.mark.parametrize(
    "wish", [Wish(), Wish(names=("absent",)), Wish(patterns=("x",)), Wish(can_reach="10.9.9.9")]
)
def test_no_underlay_is_said_with_what_was_sought(wish):
    kernel = FakeInterfaces(Wiring(links=(ETH0,)))
    kernel.addresses = [host("eth0", "192.168.56.11")]
    with pytest.raises(NoUnderlay, match="-iface"):
        find_underlay(kernel, wish)


# --- firewall rules --------------------------------------------------------------------------------------


class FakeTables:
    """iptables as far as the rules need it: chains that a restore replaces, and -C and -S."""

    def __init__(self) -> None:
        self.chains: dict[tuple[str, str], list[str]] = {("nat", "POSTROUTING"): [], ("filter", "FORWARD"): []}
        self.restores = 0
        self.locked = False

    def run(self, argv, *, stdin="", check=True, timeout=60.0):
        if argv[0].endswith("-restore"):
            self.restores += 1
            self._restore(stdin.splitlines())
            return Result(status=0, stdout="", stderr="")
        table, verb, chain, *rule = argv[argv.index("-t") + 1 :]
        standing = self.chains.get((table, chain), [])
        if verb == "-C" and self.locked:
            return Result(status=4, stdout="", stderr="Another app is currently holding the xtables lock")
        if verb == "-C":
            wanted = " ".join(f'"{word}"' if " " in word else word for word in rule)
            return Result(status=0 if wanted in standing else 1, stdout="", stderr="")
        return Result(status=0, stdout="\n".join(standing), stderr="")

    def _restore(self, lines):
        table = lines[0][1:]
        for line in lines[1:-1]:
            if line.startswith(":"):
                self.chains[table, line[1:].split()[0]] = []
            else:
                _, chain, rule = line.split(" ", 2)
                self.chains[table, chain].append(rule)


def test_the_rules_are_flannels_and_are_repaired_as_a_whole():
    network, subnet = IPv4Network("10.244.0.0/16"), IPv4Network("10.244.1.0/24")
    tables = FakeTables()
    chains = (masquerade_chain(network, subnet, random_fully=True), forward_chain(network))
    rules = MasqueradeRules(Iptables(tables, Family.V4, Flavour.NFT), chains)
    rules.ensure()
    comment = '-m comment --comment "flanneld masq" -j'
    assert tables.chains["nat", "FLANNEL-POSTRTG"] == [
        f"-m mark --mark 0x4000/0x4000 {comment} RETURN",
        f"-s 10.244.1.0/24 -d 10.244.0.0/16 {comment} RETURN",
        f"-s 10.244.0.0/16 -d 10.244.1.0/24 {comment} RETURN",
        f"! -s 10.244.0.0/16 -d 10.244.1.0/24 {comment} RETURN",
        f"-s 10.244.0.0/16 ! -d 224.0.0.0/4 {comment} MASQUERADE --random-fully",
        f"! -s 10.244.0.0/16 -d 10.244.0.0/16 {comment} MASQUERADE --random-fully",
    ]
    assert tables.chains["nat", "POSTROUTING"] == [f"{comment} FLANNEL-POSTRTG"]
    assert tables.chains["filter", "FORWARD"] == ['-m comment --comment "flanneld forward" -j FLANNEL-FWD']
    rules.ensure()
    assert tables.restores == 2
    written = {key: list(lines) for key, lines in tables.chains.items()}
    tables.chains["nat", "FLANNEL-POSTRTG"].pop(0)
    tables.chains["filter", "FORWARD"].clear()
    rules.ensure()
    assert tables.chains == written
    # Whether the jump stands cannot be asked for now: a second one must not be written.
    tables.locked = True
    with pytest.raises(KernelError, match="xtables lock"):
        rules.ensure()
    assert tables.chains == written
