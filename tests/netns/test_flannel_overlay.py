"""Real flanneld processes on a bed of namespaces: what passes, what stays, and what comes back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.flannel_bed import PREFIX, ROOT, Bed
from tests.waiting import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed"),
]

DEVICE = {"vxlan": "flannel.1", "udp": "flannel0"}


@pytest.fixture(scope="module", params=["vxlan", "udp"])
def bed(request, tmp_path_factory):
    made = Bed(Path(tmp_path_factory.mktemp(request.param)))
    made.backend = request.param
    try:
        made.open()
        made.start_store()
        made.configure(Type=request.param)
        for number in range(2):
            made.start(number, "-ip-masq")
        made.wait_ready()
        made.addresses = [made.attach_pod(number) for number in range(2)]
        yield made
    finally:
        made.close()


def connected(bed: Bed) -> bool:
    return bed.pings(0, bed.addresses[1]) and bed.pings(1, bed.addresses[0])


def test_pods_reach_each_other_with_packets_of_any_size(bed):
    mtu = int(bed.subnet_env(0)["FLANNEL_MTU"])
    assert mtu == {"vxlan": 1450, "udp": 1472}[bed.backend]
    for near, far in ((0, 1), (1, 0)):
        for size in (0, 56, mtu - 28, mtu - 27, 4000, 20000):
            assert bed.pings(near, bed.addresses[far], size=size, count=3), f"{near} to {far}, {size} bytes"


def test_a_node_reaches_pods_of_the_other(bed):
    for near, far in ((0, 1), (1, 0)):
        assert " 0% packet loss" in bed.on_node(
            near, "ping", "-c", "2", "-i", "0.1", "-W", "1", bed.addresses[far]
        )


def test_pods_leave_the_pod_network_by_their_nodes_address(bed):
    # Node 1 has no route back to node 0's pods over the underlay: an answer proves the masquerading.
    rules = bed.on_node(0, "sh", "-c", "iptables-legacy -t nat -S; iptables-nft -t nat -S")
    assert "-A FLANNEL-POSTRTG -s 10.77.0.0/16 ! -d 224.0.0.0/4" in rules
    outside = bed.address(1)
    bed.on_node(1, "ip", "rule", "add", "to", "10.77.0.0/16", "iif", "lo", "prohibit")
    try:
        until(lambda: bed.pings(0, outside), "the pod reaches the other node masqueraded", 5)
    finally:
        bed.on_node(1, "ip", "rule", "del", "to", "10.77.0.0/16", "iif", "lo", "prohibit")


def test_flushed_rules_come_back(bed):
    tables = ("legacy", "nft")
    for flavour in tables:
        bed.on_node(0, f"iptables-{flavour}", "-t", "nat", "-F")
        bed.on_node(0, f"iptables-{flavour}", "-F")

    def written() -> bool:
        listing = "".join(
            bed.on_node(0, f"iptables-{flavour}", "-t", table, "-S")
            for flavour in tables
            for table in ("nat", "filter")
        )
        return listing.count("-j FLANNEL-") == 2 and "MASQUERADE" in listing and "-A FLANNEL-FWD -s" in listing

    until(written, "rules are back", 10)


def test_a_deleted_device_comes_back(bed):
    for number in range(2):
        bed.on_node(number, "ip", "link", "delete", DEVICE[bed.backend])
    until(lambda: connected(bed), f"traffic returns; {bed.log(0)}", 15)
    assert bed.on_node(0, "ip", "-4", "-o", "addr", "show", DEVICE[bed.backend]).count("inet ") == 1


def test_entries_that_somebody_removed_come_back(bed):
    device = DEVICE[bed.backend]
    bed.on_node(0, "ip", "route", "flush", "dev", device)
    bed.on_node(0, "ip", "addr", "flush", "dev", device)
    bed.on_node(0, "ip", "link", "set", device, "down", "mtu", "1300")
    until(lambda: connected(bed), "traffic returns", 15)
    assert f"mtu {bed.subnet_env(0)['FLANNEL_MTU']}" in bed.on_node(0, "ip", "link", "show", device)


def test_kill_9_and_restart_keep_the_subnet(bed):
    before = bed.subnet_env(0)
    mac = bed.on_node(0, "cat", f"/sys/class/net/{DEVICE[bed.backend]}/address", check=False)
    bed.kill(0)
    if bed.backend == "vxlan":
        assert bed.pings(0, bed.addresses[1], count=5), "traffic goes on without the daemon"
    else:
        until(lambda: DEVICE["udp"] not in bed.on_node(0, "ip", "link"), "the forwarder ended with its daemon", 5)
    bed.start(0, "-ip-masq")
    bed.wait_ready(0)
    assert bed.subnet_env(0) == before
    until(lambda: connected(bed), "traffic", 5)
    if bed.backend == "vxlan":
        assert bed.on_node(0, "cat", "/sys/class/net/flannel.1/address") == mac


def test_traffic_survives_the_store(bed):
    bed.stop_store()
    until(lambda: not bed.ready(0), "not ready while the leases cannot be watched", 10)
    assert connected(bed)
    assert "is running" in bed.on_node(0, "curl", "-sm", "2", "http://127.0.0.1:10256/healthz")
    bed.start_store()
    bed.wait_ready()
    assert connected(bed)


def test_a_revoked_own_lease_is_taken_again(bed):
    subnet = bed.subnet_env(1)["FLANNEL_SUBNET"].replace(".1/", ".0-")
    bed.delete(f"{PREFIX}/subnets/{subnet}")
    until(lambda: "taking it again" in bed.log(1), "the loss is noticed")
    until(lambda: connected(bed), "traffic returns")


def test_a_stop_keeps_lease_and_kernel_state_and_a_removed_lease_cleans_up(bed):
    env = bed.subnet_env(1)
    assert bed.stop(1) == 0
    if bed.backend == "vxlan":
        assert connected(bed)
    subnet = env["FLANNEL_SUBNET"].replace(".1/", ".0-")
    bed.delete(f"{PREFIX}/subnets/{subnet}")
    until(lambda: not bed.pings(0, bed.addresses[1]), "the lease is gone", 10)
    if bed.backend == "vxlan":

        def left() -> str:
            return (
                bed.on_node(0, "ip", "route", "show", "dev", "flannel.1")
                + bed.on_node(0, "ip", "neigh", "show", "dev", "flannel.1", "nud", "permanent")
                + bed.on_node(0, "bridge", "fdb", "show", "dev", "flannel.1")
            )

        until(lambda: not left(), f"no entry is left: {left()}", 5)
    bed.start(1, "-ip-masq")
    bed.wait_ready(1)
    assert bed.subnet_env(1) == env, "the previous subnet of subnet.env is free and taken again"
    until(lambda: connected(bed), "traffic", 10)


@pytest.mark.parametrize("bed", ["vxlan"], indirect=True)
def test_state_that_went_stale_while_the_daemon_was_away_goes_at_its_start(bed):
    bed.kill(0)
    bed.on_node(0, "ip", "route", "add", "10.77.250.0/24", "via", "10.77.250.0", "dev", "flannel.1", "onlink")
    bed.on_node(
        0,
        "ip",
        "neigh",
        "add",
        "10.77.250.0",
        "lladdr",
        "0e:00:00:00:00:01",
        "dev",
        "flannel.1",
        "nud",
        "permanent",
    )
    bed.on_node(
        0, "bridge", "fdb", "add", "0e:00:00:00:00:01", "dev", "flannel.1", "dst", "192.168.77.250", "self"
    )
    bed.start(0, "-ip-masq")
    bed.wait_ready(0)
    state = bed.on_node(0, "ip", "route") + bed.on_node(0, "ip", "neigh") + bed.on_node(0, "bridge", "fdb")
    assert "250" not in state
    assert connected(bed)


def test_a_hostile_lease_moves_no_packet(bed):
    for key in ("0.0.0.0-1", "10.77.0.0-16", "rubbish"):
        bed.put(
            f"{PREFIX}/subnets/{key}", '{"PublicIP":"192.168.77.66","BackendType":"vxlan","BackendData":{"VNI":1}}'
        )
    until(lambda: "rubbish" in bed.log(0), "the last of them has been read")
    assert connected(bed)
    assert "0.0.0.0" not in bed.on_node(0, "ip", "route")


@pytest.mark.parametrize("bed", ["vxlan"], indirect=True)
def test_a_new_mtu_reaches_the_standing_device(bed):
    mac = bed.on_node(0, "cat", "/sys/class/net/flannel.1/address")
    bed.stop(0)
    bed.configure(Type="vxlan", MTU=1400)
    bed.start(0, "-ip-masq")
    bed.wait_ready(0)
    until(lambda: "mtu 1350" in bed.on_node(0, "ip", "link", "show", "flannel.1"), "the MTU is set", 5)
    assert bed.subnet_env(0)["FLANNEL_MTU"] == "1350"
    assert bed.on_node(0, "cat", "/sys/class/net/flannel.1/address") == mac
    assert connected(bed)


@pytest.mark.parametrize("bed", ["vxlan"], indirect=True)
def test_a_change_to_host_gw_replaces_the_routes(bed):
    for number in range(2):
        bed.stop(number)
    bed.configure(Type="host-gw")
    for number in range(2):
        bed.start(number, "-ip-masq")
    bed.wait_ready()
    until(lambda: connected(bed), "traffic", 10)
    assert "via 192.168.77.2 dev eth0 proto 241" in bed.on_node(0, "ip", "route")
    assert bed.subnet_env(0)["FLANNEL_MTU"] == "1500"


@pytest.mark.parametrize("bed", ["vxlan"], indirect=True)
@pytest.mark.parametrize(
    ("flags", "status", "complaint"),
    [
        (("-iface=eth7",), 1, "no interface with an IPv4 address found for eth7"),
        (("-iface=eth0", "-healthz-ip=127.0.0.1", "-healthz-port=10256"), 1, "10256"),
        (("-frobnicate",), 2, "flag provided but not defined: -frobnicate"),
    ],
)
def test_what_cannot_work_ends_with_one_line(bed, flags, status, complaint):
    argv = ("ip", "netns", "exec", bed.nodes[0], sys.executable, "-m", "flannel", *flags)
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd=ROOT)
    assert ended.returncode == status
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr
