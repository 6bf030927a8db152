"""Every mode of kube-proxy on a node's real kernel, removed by the agent's sweep and by the cleanup command."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy import cleanup
from kubeproxy.dataplane.iptables.localnet import ROUTE_LOCALNET
from kubeproxy.dataplane.iptables.names import COUNTERS
from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import Kept, remove
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.iptables_bed import BE1, BE3, VIP, backend_in, check, sync
from tests.netns.packet_lab import NODE_IP, PacketLab, packet_lab
from tests.netns.upstream_iptables import Node, install, install_kubelet
from tests.netns.upstream_modes import install_ipvs, install_nftables, set_names

pytestmark = pytest.mark.netns

NODES = {
    Family.V4: Node(ip=NODE_IP, cluster_cidr="10.244.0.0/16"),
    Family.V6: Node(family=Family.V6, ip="fd02::11", cluster_cidr="fd01::/64"),
}
SERVICES = world(
    service("web", f"{VIP},fd00::10", node_port=30080, external_ips=("1.2.3.4", "2001:db8::1")),
    endpoint_slice("web", "80", [BE1, BE3]),
    endpoint_slice("web", "80", ["fd01::1@node1"], suffix="six"),
    service("empty", "10.96.0.12,fd00::12", node_port=30082),
)
FOREIGN = """*nat
:THEIRS - [0:0]
-A THEIRS -j RETURN
-A POSTROUTING -s {address} -j MASQUERADE
COMMIT
*filter
-A INPUT -s {address} -j DROP
COMMIT
*mangle
-A FORWARD -s {address} -j MARK --set-xmark 0x1/0x1
COMMIT
"""


@pytest.fixture
def lab() -> Iterator[PacketLab]:
    with packet_lab() as built:
        yield built


def every_tables() -> list[Iptables]:
    return [Iptables(SystemExec(), family, flavour) for family in Family for flavour in Flavour]


def make_foreign() -> None:
    for tables in every_tables():
        tables.restore(FOREIGN.format(address="10.9.9.9/32" if tables.family is Family.V4 else "fd09::9/128"))
        install_kubelet(tables)
    SystemExec().run(["ipset", "create", "KUBE-THEIRS", "hash:ip"])
    SystemExec().run(["ipset", "create", "firewall", "hash:net"])
    SystemExec().run(["nft", "-f", "-"], stdin="table ip kube-router { set s { type ipv4_addr; }; }\n")
    Nfacct().ensure("theirs")
    SystemExec().run(["nft", "add", "table", "inet", "kube-proxy"])  # upstream's are ip and ip6


def make_every_mode() -> None:
    for tables in every_tables():
        install_ipvs(tables)
        install(tables, SERVICES, NODES[tables.family])
    install_nftables(Family.V4, VIP, "1.2.3.4", 30080, ["10.244.0.11 . 80", "10.244.1.11 . 80"])
    install_nftables(Family.V6, "fd00::10", "2001:db8::1", 30080, ["fd01::1 . 80"])


def snapshot() -> str:
    """Return all that any proxy could have changed: rules without counters, sets, nftables, sysctls."""
    parts = [tables.save(table) for tables in every_tables() for table in ("nat", "filter", "mangle")]
    parts += [SystemExec().run(argv).stdout for argv in (["ipset", "save"], ["nft", "list", "ruleset"])]
    text = re.sub(r"\[\d+:\d+\]|packets \d+ bytes \d+|^#.*$", "", "\n".join(parts), flags=re.MULTILINE)
    # iptables-nft makes built-in chains when they are first used; empty ones stay, as after its own -F and -X.
    text = re.sub(r"\n\tchain [A-Z]+ \{\n\t\ttype .* policy accept;\n\t\}\n", "", text)
    counted = [f"{name} {Nfacct().packets(name)}" for name in (*COUNTERS, "theirs")]
    listing = ["sysctl", "-a", "-r", "^net\\.(ipv4|ipv6|netfilter)\\.", "--ignore"]
    values = SystemExec().run(listing).stdout
    return text + "\n".join(counted) + re.sub(r"(?m)^.*(nf_conntrack_count|random|stable_secret).*\n", "", values)


@pytest.mark.parametrize("localnet", ["0", "1"])
@pytest.mark.parametrize("ours", list(Flavour))
def test_cleanup_restores_the_node(lab: PacketLab, ours: Flavour, localnet: str) -> None:
    lab.run("node", make_foreign)
    lab.run("node", lambda: ProcSysctls().ensure(ROUTE_LOCALNET, localnet))
    before = lab.run("node", snapshot)
    lab.run("node", make_every_mode)
    sync(lab, backend_in(ours), SERVICES)
    check(lab, f"pod {VIP}:80", "be1,be3 same")
    assert lab.run("node", lambda: ProcSysctls().read(ROUTE_LOCALNET)) == "1"
    assert lab.run("node", lambda: cleanup.main([])) == 0
    assert lab.run("node", snapshot) == before


@pytest.mark.parametrize("ours", list(Flavour))
def test_what_serves_stays_and_all_else_goes(lab: PacketLab, ours: Flavour) -> None:
    lab.run("node", make_foreign)
    foreign = lab.run("node", snapshot)
    lab.run("node", make_every_mode)
    backend = backend_in(ours)
    sync(lab, backend, SERVICES)
    kept = Kept(mode=Mode.IPTABLES, flavour=ours)
    assert lab.run("node", lambda: remove(whole_kernel(), Family, kept)) == ()
    swept = lab.run("node", snapshot)
    check(lab, f"pod {VIP}:80", "be1,be3 same")
    check(lab, f"outside {NODE_IP}:30080", "be1,be3 masq")
    check(lab, "pod 10.96.0.12:80", "REFUSED")
    sync(lab, backend, SERVICES)
    assert lab.run("node", snapshot) == swept  # nothing that a sync would have to put back
    sets = lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout.split())
    assert set(sets) & {*set_names(Family.V4), *set_names(Family.V6)} == {"KUBE-LOOP-BACK", "KUBE-6-LOOP-BACK"}
    lab.run("node", backend.cleanup)
    # Ours served one family; the other's is the cleanup's.
    assert lab.run("node", lambda: cleanup.main([])) == 0
    assert lab.run("node", snapshot) == foreign


def test_what_a_foreign_rule_needs_is_named_and_goes_once_the_rule_is_gone(lab: PacketLab) -> None:
    tables = Iptables(SystemExec(), Family.V4, Flavour.NFT)
    rules = ("OUTPUT -m set --match-set KUBE-CLUSTER-IP dst -j ACCEPT", "INPUT -s 10.9.9.9/32 -j KUBE-IPVS-FILTER")

    def sweep() -> tuple[str, ...]:
        kept = Kept(mode=Mode.IPTABLES, flavour=Flavour.NFT)
        return remove(whole_kernel(), [Family.V4], kept)

    lab.run("node", lambda: install_ipvs(tables))
    sync(lab, backend_in(Flavour.NFT), SERVICES)
    lab.run("node", lambda: tables.restore("*filter\n" + "".join(f"-A {rule}\n" for rule in rules) + "COMMIT\n"))
    for _ in range(2):
        chain, name = lab.run("node", sweep)
        assert (
            f"chain KUBE-IPVS-FILTER of table filter stays, empty: delete the rule that leads to it, `{rules[1]}`"
            in chain
        )
        assert "set KUBE-CLUSTER-IP stays: delete the iptables rule that refers to it" in name
    lab.run("node", lambda: tables.restore("*filter\n" + "".join(f"-D {rule}\n" for rule in rules) + "COMMIT\n"))
    assert lab.run("node", sweep) == ()
    assert "KUBE-CLUSTER-IP" not in lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout)
    assert "KUBE-IPVS" not in lab.run("node", lambda: tables.save("filter"))


def test_a_device_of_that_name_but_another_kind_is_left_alone(lab: PacketLab) -> None:
    lab.run(
        "node",
        lambda: SystemExec().run(["ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"]),
    )
    (complaint,) = lab.run("node", lambda: remove(whole_kernel(), [Family.V4], None))
    assert "device kube-ipvs0 is of kind veth, not dummy" in complaint
    assert "kube-ipvs0" in lab.run("node", lambda: SystemExec().run(["ip", "link"]).stdout)


def test_cleanup_without_the_programs_does_what_can_be_done(lab: PacketLab, tmp_path: Path) -> None:
    lab.run("node", lambda: install_nftables(Family.V4, VIP, "1.2.3.4", 30080, ["10.244.0.11 . 80"]))
    lab.run("node", lambda: SystemExec().run(["ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port"]))
    inside = [
        str(shutil.which("nsenter")),
        f"--net=/run/netns/{lab.name('node')}",
        str(Path(sys.executable).parent / "kubeproxy"),
    ]
    for argv in (["cleanup"], ["--cleanup"]):
        done = subprocess.run(
            [*inside, *argv], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
    left = lab.run("node", lambda: SystemExec().run(["nft", "list", "ruleset"]).stdout)
    assert "kube-proxy" not in left
    assert lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout) == ""
