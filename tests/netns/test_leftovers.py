"""Every mode of kube-proxy on a node's real kernel, removed by the agent's sweep and by the cleanup command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kubeproxy import cleanup
from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.iptables.localnet import ROUTE_LOCALNET
from kubeproxy.dataplane.iptables.names import COUNTERS
from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import Kept, Removed, remove
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import Protocol
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns import upstream_nftables
from tests.netns.upstream_iptables import install, install_kubelet
from tests.netns.upstream_ipvs import install_ipvs, set_names
from tests.netns.upstream_ports import Node
from tests.scenarios.addresses import HOSTS, NODE, POD_NETWORK, virtual
from tests.scenarios.lab import Lab
from tests.scenarios.modes import MODES
from tests.scenarios.probes import REFUSED, probe

pytestmark = pytest.mark.netns

V4, V6 = Family.V4, Family.V6
NODES = {
    family: Node(family=family, ip=NODE.address(family), cluster_cidr=POD_NETWORK[family]) for family in Family
}
SETTINGS = Settings(node_name="node1", cluster_cidrs=tuple(POD_NETWORK.values()))
VIP = {family: virtual("cluster", family, 201, 10) for family in Family}
EMPTY = {family: virtual("cluster", family, 201, 12) for family in Family}
EXTERNAL = {family: virtual("external", family, 201, 10) for family in Family}
NODE_PORT = 30080
ENDPOINTS = {
    family: (f"{HOSTS['be1'].address(family)}@node1", f"{HOSTS['be3'].address(family)}@node2") for family in Family
}
SERVICES = world(
    service("web", ",".join(VIP.values()), node_port=NODE_PORT, external_ips=tuple(EXTERNAL.values())),
    *(endpoint_slice("web", "80", each, suffix=family.label.lower()) for family, each in ENDPOINTS.items()),
    service("empty", ",".join(EMPTY.values()), node_port=30082),
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


def every_tables() -> list[Iptables]:
    return [Iptables(SystemExec(), family, flavour) for family in Family for flavour in Flavour]


def make_foreign() -> None:
    for tables in every_tables():
        tables.restore(FOREIGN.format(address="10.9.9.9/32" if tables.family is V4 else "fd09::9/128"))
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
    for family in Family:
        upstream_nftables.install(SERVICES, NODES[family])


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


KEPT = {
    "iptables-nft": Kept(mode=Mode.IPTABLES, flavour=Flavour.NFT),
    "iptables-legacy": Kept(mode=Mode.IPTABLES, flavour=Flavour.LEGACY),
    "nftables": Kept(mode=Mode.NFTABLES),
}


def sync(lab: Lab, ours: str) -> Backend:
    """Have a new backend of ours write IPv4."""

    def work() -> Backend:
        backend = MODES[ours].backend(V4)
        plan = backend.diff(wanted(SERVICES, SETTINGS, V4), None)
        assert plan is not None
        backend.apply(plan)
        return backend

    return lab.run("node", work)


def answers(lab: Lab, client: str, address: str, port: int) -> set[str]:
    return {str(probe(lab, client, Protocol.TCP, address, port)) for _ in range(20)}


@pytest.mark.parametrize("localnet", ["0", "1"])
@pytest.mark.parametrize("ours", KEPT)
def test_cleanup_restores_the_node(lab: Lab, ours: str, localnet: str) -> None:
    lab.run("node", make_foreign)
    lab.run("node", lambda: ProcSysctls().ensure(ROUTE_LOCALNET, localnet))
    before = lab.run("node", snapshot)
    lab.run("node", make_every_mode)
    sync(lab, ours)
    assert answers(lab, "pod", VIP[V4], 80) == {"be1 same 80", "be3 same 80"}
    needed = "1" if KEPT[ours].mode is Mode.IPTABLES else localnet
    assert lab.run("node", lambda: ProcSysctls().read(ROUTE_LOCALNET)) == needed
    assert lab.run("node", lambda: cleanup.main([])) == 0
    assert lab.run("node", snapshot) == before


@pytest.mark.parametrize("ours", KEPT)
def test_what_serves_stays_and_all_else_goes(lab: Lab, ours: str) -> None:
    lab.run("node", make_foreign)
    foreign = lab.run("node", snapshot)
    lab.run("node", make_every_mode)
    backend = sync(lab, ours)
    assert lab.run("node", lambda: remove(whole_kernel(), Family, KEPT[ours])) == Removed()
    swept = lab.run("node", snapshot)
    assert answers(lab, "pod", VIP[V4], 80) == {"be1 same 80", "be3 same 80"}
    assert answers(lab, "outside", NODE.v4, NODE_PORT) == {"be1 masq 80", "be3 masq 80"}
    assert answers(lab, "pod", EMPTY[V4], 80) == {REFUSED}
    sync(lab, ours)
    assert lab.run("node", snapshot) == swept  # nothing that a sync would have to put back
    sets = lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout.split())
    own = {"KUBE-LOOP-BACK", "KUBE-6-LOOP-BACK"} if KEPT[ours].mode is Mode.IPTABLES else set()
    assert set(sets) & {*set_names(V4), *set_names(V6)} == own
    lab.run("node", backend.cleanup)
    # Ours served one family; the other's is the cleanup's.
    assert lab.run("node", lambda: cleanup.main([])) == 0
    assert lab.run("node", snapshot) == foreign


def test_what_a_foreign_rule_needs_is_named_and_goes_once_the_rule_is_gone(lab: Lab) -> None:
    tables = Iptables(SystemExec(), V4, Flavour.NFT)
    rules = ("OUTPUT -m set --match-set KUBE-CLUSTER-IP dst -j ACCEPT", "INPUT -s 10.9.9.9/32 -j KUBE-IPVS-FILTER")

    def sweep() -> tuple[str, ...]:
        kept = Kept(mode=Mode.IPTABLES, flavour=Flavour.NFT)
        return remove(whole_kernel(), [V4], kept).complaints

    lab.run("node", lambda: install_ipvs(tables))
    sync(lab, "iptables-nft")
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
    assert "KUBE-CLUSTER-IP" not in lab.run(
        "node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout.split()
    )
    assert "KUBE-IPVS" not in lab.run("node", lambda: tables.save("filter"))


def test_a_device_of_that_name_but_another_kind_is_left_alone(lab: Lab) -> None:
    lab.run(
        "node",
        lambda: SystemExec().run(["ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"]),
    )
    (complaint,) = lab.run("node", lambda: remove(whole_kernel(), [V4], None).complaints)
    assert "device kube-ipvs0 is of kind veth, not dummy" in complaint
    assert "kube-ipvs0" in lab.run("node", lambda: SystemExec().run(["ip", "link"]).stdout)


def test_cleanup_without_the_programs_does_what_can_be_done(lab: Lab, tmp_path: Path) -> None:
    lab.run("node", lambda: upstream_nftables.install(SERVICES, NODES[V4]))
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
