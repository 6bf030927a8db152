"""The planner's steps on the real kernel: it ends where the fake says, from many states to many others."""

import os
import random
import subprocess
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest

from flannel.lease import Lease, LeaseAttrs, encode_vtep, subnet_key
from flannel.netconf import parse_netconf
from flannel.overlay import Scope, Underlay, host_gateway_wiring, plan, usable_peers, vxlan_wiring
from kubeproxy.kernel.interfaces import Rtnetlink
from kubeproxy.kernel.links import Forwarding, Link, Neighbour, Route, Step, Verb, Vxlan, Wiring
from kubeproxy.kernel.netns import CLONE_NEWNET, unshare

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
]

NETCONF = parse_netconf(b'{"Network":"10.244.0.0/16"}')
HOST = IPv4Address("192.168.56.11")
UNDERLAY = Underlay(link="eth0", address=HOST, mtu=1500, public_ip=HOST)
SCOPE = Scope(network=NETCONF.network, devices=frozenset({"flannel.1"}), underlay="eth0")


def in_a_namespace(work: Callable[[], None]) -> None:
    """Run ``work`` in a thread that has a new network namespace with one interface, eth0."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            unshare(CLONE_NEWNET)
            for command in (
                "ip link add eth0 type veth peer name peer0",
                "ip link set peer0 up",
                "ip addr add 192.168.56.11/24 dev eth0",
                "ip link set eth0 up",
                "ip route add 172.16.0.0/12 via 192.168.56.1 dev eth0",
            ):
                subprocess.run(command.split(), check=True)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def lease(chooser: random.Random) -> Lease:
    subnet = IPv4Network(f"10.244.{chooser.randint(1, 6)}.0/24")
    data = encode_vtep(1, f"0e:00:00:00:00:{chooser.randint(1, 6):02x}")
    public_ip = IPv4Address(f"192.168.56.{chooser.randint(11, 16)}")
    return Lease(
        subnet=subnet,
        attrs=LeaseAttrs(public_ip=public_ip, backend_type="vxlan", backend_data=data),
        key=subnet_key(subnet),
    )


def wish(chooser: random.Random) -> Wiring:
    own = lease(chooser)
    peers = usable_peers(NETCONF, own, "vxlan", [lease(chooser) for _ in range(chooser.randint(0, 5))]).usable
    if chooser.random() < 0.2:
        return host_gateway_wiring(peers, UNDERLAY)
    device = Link(
        name="flannel.1",
        mtu=chooser.choice([1400, 1450]),
        mac=f"0e:00:00:00:01:{chooser.randint(1, 3):02x}",
        vxlan=Vxlan(vni=1, port=chooser.choice([8472, 8472, 8472, 4789]), underlay="eth0", local=str(HOST)),
    )
    direct = frozenset({IPv4Address("192.168.56.13")} if chooser.random() < 0.5 else ())
    return vxlan_wiring(own, peers, device, UNDERLAY, direct)


def test_any_state_leads_to_any_other_on_the_real_kernel():
    def work() -> None:
        chooser, kernel = random.Random(7), Rtnetlink()
        for turn in range(80):
            wiring = wish(chooser)
            if turn % 10 == 5:
                subprocess.run(["ip", "link", "set", "flannel.1", "down"], check=False, stderr=subprocess.DEVNULL)
            steps = plan(wiring, kernel.read(SCOPE.links()), SCOPE)
            assert kernel.apply(steps) == []
            after = kernel.read(SCOPE.links())
            assert set(wiring.links) <= set(after.links), steps
            owned = {entry for entry in after.entries if SCOPE.owns(entry)}
            if wiring.links:
                assert owned == wiring.entries, steps
            assert plan(wiring, after, SCOPE) == ()
            assert any(
                isinstance(entry, Route) and entry.destination == "172.16.0.0/12" for entry in after.entries
            )

    in_a_namespace(work)


def test_deleting_what_is_not_there_is_no_failure_and_the_rest_is_done():
    def work() -> None:
        kernel = Rtnetlink()
        absent = (
            Link(name="flannel.1", mtu=1450),
            Route(destination="10.244.9.0/24", link="eth0", gateway="192.168.56.9"),
            Neighbour(link="eth0", address="192.168.56.9", mac="0e:00:00:00:00:01"),
            Forwarding(link="eth0", mac="0e:00:00:00:00:01", remote="192.168.56.9"),
            Route(destination="10.244.9.0/24", link="gone0"),
        )
        route = Route(destination="10.244.8.0/24", link="eth0", gateway="192.168.56.8", protocol=241)
        bad = Route(destination="10.244.7.0/24", link="eth0", gateway="10.99.99.99", protocol=241)
        steps = [Step(verb=Verb.DELETE, item=item) for item in absent]
        steps += [Step(verb=Verb.PUT, item=bad), Step(verb=Verb.PUT, item=route)]
        refused = kernel.apply(steps)
        assert [("10.244.7.0/24" in str(error)) for error in refused] == [True], refused
        assert route in kernel.read(["eth0"]).entries
        assert kernel.route_to("10.244.8.1") == Route(
            destination="10.244.8.1/32", link="eth0", gateway="192.168.56.8"
        )
        assert kernel.route_to("198.51.100.1") is None
        assert [(a.link, a.address, a.settled) for a in kernel.host_addresses()] == [
            ("eth0", "192.168.56.11", True)
        ]

    in_a_namespace(work)
