"""From any state of the kernel to any desired state: `plan` gets there, says nothing more, and harms nobody."""

from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flannel.allocation import LeaseBook, choose_subnet
from flannel.lease import Lease, LeaseAttrs, encode_attrs, encode_vtep, parse_subnet_key, subnet_key
from flannel.netconf import parse_netconf
from flannel.overlay import (
    ROUTE_PROTOCOL,
    Scope,
    Underlay,
    host_gateway_wiring,
    plan,
    usable_peers,
    vxlan_wiring,
)
from kubeproxy.kernel.fake_interfaces import FakeInterfaces
from kubeproxy.kernel.links import Address, Forwarding, Link, Neighbour, Route, Vxlan, Wiring
from kubeproxy.store.base import Event, EventType, KeyValue

pytestmark = pytest.mark.unit

NETCONF = parse_netconf(b'{"Network":"10.244.0.0/16"}')
ETH0 = Link(name="eth0", mtu=1500, mac="0a:00:00:00:00:01")
HOST = IPv4Address("192.168.56.11")
UNDERLAY = Underlay(link="eth0", address=HOST, mtu=1500, public_ip=HOST)
SCOPE = Scope(network=IPv4Network("10.244.0.0/16"), devices=frozenset({"flannel.1"}), underlay="eth0")

subnets = st.integers(1, 6).map(lambda number: IPv4Network(f"10.244.{number}.0/24"))
hosts = st.integers(11, 16).map(lambda number: IPv4Address(f"192.168.56.{number}"))
macs = st.integers(1, 6).map(lambda number: f"0e:00:00:00:00:{number:02x}")


@st.composite
def leases(draw):
    subnet = draw(subnets)
    attrs = LeaseAttrs(public_ip=draw(hosts), backend_type="vxlan", backend_data=encode_vtep(1, draw(macs)))
    return Lease(subnet=subnet, attrs=attrs, key=subnet_key(subnet))


devices = st.builds(
    lambda mtu, mac, up, port: Link(
        name="flannel.1",
        mtu=mtu,
        mac=mac,
        up=up,
        vxlan=Vxlan(vni=1, port=port, underlay="eth0", local="192.168.56.11"),
    ),
    st.sampled_from([1400, 1450]),
    macs,
    st.booleans(),
    st.sampled_from([8472, 4789]),
)


@st.composite
def desired(draw):
    own = draw(leases())
    peers = usable_peers(NETCONF, own, "vxlan", draw(st.lists(leases(), max_size=6))).usable
    if draw(st.booleans()):
        return host_gateway_wiring(peers, UNDERLAY)
    device = msgspec.structs.replace(draw(devices), up=True)
    return vxlan_wiring(own, peers, device, UNDERLAY, frozenset(draw(st.lists(hosts, max_size=2))))


links = st.sampled_from(["flannel.1", "eth0"])
addresses = subnets.map(lambda subnet: str(subnet.network_address))
entries = st.one_of(
    st.builds(Address, link=st.just("flannel.1"), address=addresses.map(lambda text: f"{text}/32")),
    st.builds(Address, link=links, address=st.sampled_from(["192.168.9.9/24", "172.16.0.1/32"])),
    st.builds(
        Route,
        destination=subnets.map(str),
        link=links,
        gateway=st.one_of(st.just(""), hosts.map(str)),
        onlink=st.booleans(),
        protocol=st.sampled_from([3, 4, ROUTE_PROTOCOL]),
    ),
    st.builds(Neighbour, link=st.just("flannel.1"), address=addresses, mac=macs),
    st.builds(Forwarding, link=st.just("flannel.1"), mac=macs, remote=hosts.map(str)),
)


@st.composite
def kernels(draw):
    device = draw(st.one_of(st.none(), devices))
    standing = draw(st.frozensets(entries, max_size=20))
    if device is None:
        return FakeInterfaces(Wiring(links=(ETH0,), entries=frozenset(e for e in standing if e.link == "eth0")))
    return FakeInterfaces(Wiring(links=(ETH0, device), entries=standing))


@given(kernels(), desired())
def test_any_state_leads_to_any_other(kernel, wiring):
    foreign = {entry for entry in kernel.read(["eth0"]).entries if not SCOPE.owns(entry)}
    kept = {entry for entry in foreign if not isinstance(entry, Route)}
    steps = plan(wiring, kernel.read(SCOPE.links()), SCOPE)
    assert kernel.apply(steps) == []
    after = kernel.read(SCOPE.links())
    assert set(wiring.links) <= set(after.links)
    assert {entry for entry in after.entries if SCOPE.owns(entry)} >= wiring.entries
    assert {entry for entry in after.entries if SCOPE.owns(entry)} - wiring.entries == set()
    assert plan(wiring, after, SCOPE) == ()
    wanted_routes = {entry.destination for entry in wiring.entries if isinstance(entry, Route)}
    kept |= {entry for entry in foreign if isinstance(entry, Route) and entry.destination not in wanted_routes}
    assert kept <= after.entries


@given(st.lists(leases(), max_size=12), st.lists(leases(), max_size=12), st.booleans())
def test_the_book_is_the_same_by_events_and_by_listing(first, second, listed):
    def kv(lease, revision):
        return KeyValue(
            key=lease.key.encode(),
            value=encode_attrs(lease.attrs),
            create_revision=1,
            mod_revision=revision,
            version=1,
        )

    before = {lease.key: kv(lease, 1) for lease in first}
    after = {lease.key: kv(lease, 2) for lease in second}
    book = LeaseBook()
    book.reset(before.values())
    known = dict(book.leases)
    if listed:
        changes = book.reset(after.values())
    else:
        events = [Event(type=EventType.DELETE, kv=before[key]) for key in before.keys() - after.keys()]
        events += [Event(type=EventType.PUT, kv=value) for value in after.values()]
        changes = book.apply(events)
    assert {key: lease.attrs for key, lease in book.leases.items()} == {
        lease.key: lease.attrs for lease in {lease.key: lease for lease in second}.values()
    }
    for change in changes:
        if change.kind == "removed":
            assert known.pop(change.lease.key)
        else:
            assert (change.lease.key in known) == (change.kind == "changed")
            known[change.lease.key] = change.lease
    assert {key: lease.attrs for key, lease in known.items()} == {k: v.attrs for k, v in book.leases.items()}


small = parse_netconf(b'{"Network":"10.244.0.0/20","SubnetLen":24}')


@given(
    st.sets(st.tuples(st.integers(0, 15), st.sampled_from([22, 23, 24, 25, 28])), max_size=8),
    st.one_of(st.none(), st.integers(0, 20)),
    st.randoms(use_true_random=False),
)
def test_a_chosen_subnet_fits_and_overlaps_nothing(taken, previous, chooser):
    used = [IPv4Network((f"10.244.{third}.0", length), strict=False) for third, length in taken]
    before = None if previous is None else IPv4Network(f"10.244.{previous}.0/24")
    free = [s for s in small.subnets() if not any(s.overlaps(other) for other in used)]
    if not free:
        return
    chosen = choose_subnet(small, used, before, chooser)
    assert chosen in free
    assert before not in free or chosen == before


@given(st.text(max_size=60))
def test_no_text_makes_the_key_parser_do_anything_but_refuse(text):
    try:
        subnet = parse_subnet_key(text)
    except ValueError:
        return
    assert text.startswith(subnet_key(subnet).split("-")[0])
