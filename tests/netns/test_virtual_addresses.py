"""Virtual addresses on the real kernel, with another kind of device where it has no dummy."""

import functools
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.virtual_addresses import AddressesRefused, VirtualAddresses
from kubeproxy.model.addresses import Family
from tests.netns.lone_namespace import LoneNamespace, lone_namespace

pytestmark = pytest.mark.netns


@functools.cache
def kind_here() -> str:
    """Return the kind of device that tests are done with."""
    with lone_namespace() as namespace:
        try:
            namespace.ip("link add kube-ipvs0 type dummy")
        except subprocess.CalledProcessError:
            return "ifb"
        return "dummy"


VIP = {Family.V4: "10.96.0.1", Family.V6: "fd00:96::1"}
OTHER = {Family.V4: "10.96.0.2", Family.V6: "fd00:96::2"}
NODE = {Family.V4: ("192.0.2.1", "192.0.2.2"), Family.V6: ("2001:db8::1", "2001:db8::2")}
NOBODYS = {Family.V4: "203.0.113.1", Family.V6: "2001:db8::99"}
FAMILIES = list(Family)


@pytest.fixture
def alone() -> Iterator[LoneNamespace]:
    """A node with two addresses of each family."""
    with lone_namespace() as namespace:
        namespace.ip("link set lo up", f"link add eth0 type {kind_here()}")
        for family in Family:
            # While the kernel looks for a duplicate of an address, it is nobody's source.
            now = "nodad" if family is Family.V6 else ""
            for address in NODE[family]:
                namespace.ip(f"addr add {address}/{family.host_bits} dev eth0 {now}")
        namespace.ip("link set eth0 up")
        yield namespace


def made(alone: LoneNamespace, family: Family) -> VirtualAddresses:
    def work() -> VirtualAddresses:
        addresses = VirtualAddresses(family, kind=kind_here())
        assert addresses.ensure_device() == addresses.ensure_device() == addresses.device()
        return addresses

    return alone.run(work)


def speaker(alone: LoneNamespace, address: str, port: int = 9) -> str:
    """Return who speaks to an address from this node; "" when there is no way to it."""

    def work() -> str:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
            try:
                client.connect((address, port))
            except OSError:
                return ""
            return str(client.getsockname()[0])

    return alone.run(work)


def answers(alone: LoneNamespace, address: str) -> bool:
    """Return whether a datagram to an address comes to this node."""

    def work() -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with (
            socket.socket(family, socket.SOCK_DGRAM) as server,
            socket.socket(family, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("", 0))
            server.settimeout(2)
            try:
                client.sendto(b"?", (address, server.getsockname()[1]))
            except OSError:
                return False
            return server.recv(10) == b"?"

    return alone.run(work)


def many(family: Family) -> list[str]:
    prefix = "10.97.{}.{}" if family is Family.V4 else "fd00:97::{:x}:{:x}"
    return [prefix.format(1 + i // 250, 1 + i % 250) for i in range(3000)]


def test_the_device_is_up_and_has_no_addresses(alone: LoneNamespace) -> None:
    made(alone, Family.V4)
    shown = alone.execute("ip", "addr", "show", "dev", "kube-ipvs0")
    assert ",UP" in shown
    assert "inet" not in shown
    assert alone.run(lambda: VirtualAddresses(Family.V6, kind=kind_here()).remove_device())
    assert "kube-ipvs0" not in alone.execute("ip", "link")


def test_somebody_elses_device_is_left_alone(alone: LoneNamespace) -> None:
    alone.ip("link add kube-ipvs0 type bridge")

    def work() -> None:
        addresses = VirtualAddresses(Family.V4, kind=kind_here())
        with pytest.raises(KernelError, match=r"kube-ipvs0: another kind of device has this name \(bridge\)"):
            addresses.ensure_device()
        assert not addresses.remove_device()

    alone.run(work)
    assert "kube-ipvs0" in alone.execute("ip", "link")


def test_a_module_that_the_kernel_lacks_is_named(alone: LoneNamespace) -> None:
    with pytest.raises(KernelError, match="kernel lacks the module nosuchkind: modprobe nosuchkind"):
        alone.run(lambda: VirtualAddresses(Family.V4, kind="nosuchkind").ensure_device())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_address_is_local_while_it_is_held_and_spoken_to_by_its_source(
    alone: LoneNamespace, family: Family
) -> None:
    addresses, vip, (node, second) = made(alone, family), VIP[family], NODE[family]
    assert speaker(alone, vip) == ""
    for _ in range(2):
        alone.run(lambda: addresses.add([vip], node))
        assert alone.run(addresses.held) == {vip: node}
    assert answers(alone, vip)
    assert speaker(alone, vip) == node
    alone.run(lambda: addresses.set_source([vip], second))
    assert alone.run(addresses.held) == {vip: second}
    assert speaker(alone, vip) == second
    assert not alone.run(addresses.remove_device)
    for _ in range(2):
        alone.run(lambda: addresses.remove([vip]))
        assert alone.run(addresses.held) == {}
    assert speaker(alone, vip) == ""
    assert alone.run(addresses.remove_device)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_source_the_kernel_chooses(alone: LoneNamespace, family: Family) -> None:
    addresses = made(alone, family)
    alone.run(lambda: addresses.add([VIP[family]]))
    assert alone.run(addresses.held) == {VIP[family]: ""}
    assert answers(alone, VIP[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_kube_proxys_addresses_go_and_ours_are_never_missed(alone: LoneNamespace, family: Family) -> None:
    addresses, vip, other, node = made(alone, family), VIP[family], OTHER[family], NODE[family][0]
    for address in (vip, other):
        alone.ip(f"addr add {address}/{family.host_bits} dev kube-ipvs0")
    assert alone.run(addresses.foreign_addresses) == {vip, other}
    crowd = many(family)  # so that a gap would be long enough to be seen
    alone.run(lambda: addresses.add([*crowd, vip], node))
    assert alone.run(addresses.held) == dict.fromkeys([*crowd, vip], node)
    assert not alone.run(addresses.remove_device)
    ended, missed = threading.Event(), []

    def watch() -> None:
        while not ended.is_set():
            try:
                client.connect((vip, 9))
            except OSError as error:
                missed.append(error)

    kind = socket.AF_INET6 if family is Family.V6 else socket.AF_INET
    with alone.run(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as client:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for _ in range(2):
                alone.run(lambda: addresses.remove_addresses([vip, other]))
        finally:
            ended.set()
            watcher.join()
    assert missed == []
    assert alone.run(addresses.foreign_addresses) == frozenset()
    assert alone.run(addresses.held) == dict.fromkeys([*crowd, vip], node)
    local = alone.execute(*f"ip -{family.value} route show table local dev lo".split())
    assert "proto 242" not in local
    assert speaker(alone, vip) == node
    assert speaker(alone, other) == ""


def test_what_somebody_left_on_the_loopback_device_is_removed(alone: LoneNamespace) -> None:
    alone.ip("route add local 10.96.0.7/32 dev lo table local proto 242 scope host")
    addresses = made(alone, Family.V4)
    assert speaker(alone, "10.96.0.7") == ""
    assert alone.run(addresses.held) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_that_is_not_this_nodes_is_told_and_changes_nothing(alone: LoneNamespace, family: Family) -> None:
    addresses, vip, node = made(alone, family), VIP[family], NODE[family][0]
    alone.run(lambda: addresses.add([vip], node))

    def work() -> None:
        for call in (addresses.add, addresses.set_source):
            with pytest.raises(AddressesRefused, match=f"{NOBODYS[family]} as its source: is it an address"):
                call([vip], NOBODYS[family])

    alone.run(work)
    assert alone.run(addresses.held) == {vip: node}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_that_somebody_removed_is_told_of_and_made_anew(alone: LoneNamespace, family: Family) -> None:
    addresses, vip = made(alone, family), VIP[family]
    alone.ip("link del kube-ipvs0")

    def gone() -> None:
        for _ in range(2):
            with pytest.raises(KernelError, match="kube-ipvs0"):
                addresses.add([vip])
        addresses.remove([vip])
        addresses.remove_addresses([vip])
        assert addresses.held() == {}
        assert addresses.foreign_addresses() == frozenset()
        assert addresses.remove_device()
        addresses.ensure_device()
        addresses.add([vip])
        assert addresses.held() == {vip: ""}

    alone.run(gone)


def test_ipv6_that_is_switched_off_is_told_by_address(alone: LoneNamespace) -> None:
    addresses = made(alone, Family.V6)
    alone.execute("sysctl", "-qw", "net.ipv6.conf.kube-ipvs0.disable_ipv6=1")
    with pytest.raises(AddressesRefused, match="fd00:96::1: IPv6 is switched off on the device; sysctl"):
        alone.run(lambda: addresses.add(["fd00:96::1"]))


@pytest.mark.parametrize("family", FAMILIES)
def test_thousands_come_and_go(alone: LoneNamespace, family: Family) -> None:
    addresses = made(alone, family)
    crowd = many(family)
    alone.run(lambda: addresses.add(crowd, NODE[family][0]))
    assert alone.run(addresses.held) == dict.fromkeys(crowd, NODE[family][0])
    alone.run(lambda: addresses.set_source(crowd, NODE[family][1]))
    assert alone.run(addresses.held) == dict.fromkeys(crowd, NODE[family][1])
    alone.run(lambda: addresses.remove(crowd))
    assert alone.run(addresses.held) == {}
