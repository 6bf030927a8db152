"""What the ipvs tests inside a machine have in common: a node, others' virtual servers, kube-proxy's, and ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from kubeproxy.dataplane.base import Applied, Backend, Plan
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import Wanted, wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from tests.netns.takeover_bed import BACKENDS, EXTERNAL, NODE_PORT, VIP
from tests.netns.traffic import ECHO_PORT
from tests.netns.upstream_virtual_servers import install_virtual_servers
from tests.scenarios.addresses import ALT, GATEWAY, HOSTS, NODE, POD_NETWORK, TUNNEL, WAY_OUT
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab
from tests.scenarios.modes import MODES

SETTINGS = {
    "ipvs": Settings(node_name="node1", cluster_cidrs=tuple(POD_NETWORK.values()), ipvs=IpvsSettings()),
    "iptables-legacy": Settings(node_name="node1", cluster_cidrs=tuple(POD_NETWORK.values())),
}

FOREIGN = """-A -t 203.0.113.9:8080 -s wlc -p 60
-a -t 203.0.113.9:8080 -r 203.0.113.99:80 -m -w 7
-A -f 7 -s rr
-a -f 7 -r 203.0.113.99:80 -g -w 3
-A -u [2001:db8:9::9]:53 -s sh
-a -u [2001:db8:9::9]:53 -r [2001:db8:9::99]:53 -m -w 5
"""


@contextmanager
def lab_with_others() -> Iterator[Lab]:
    """Build a lab whose node has virtual servers of somebody else; nothing may happen to these."""
    with build_lab() as built:
        on_node(built, "ipvsadm", "-R", text=FOREIGN)
        before = foreign(built)
        yield built
        assert foreign(built) == before


def on_node(lab: Lab, *argv: str, text: str = "", check: bool = True) -> str:
    """Run a program on the node."""
    return lab.run("node", lambda: SystemExec().run(list(argv), stdin=text, check=check).stdout)


def foreign(lab: Lab) -> list[str]:
    """Return what stands of others' virtual servers."""
    lines = servers(lab)
    found = [
        line for line in lines if "203.0.113.9" in line or "2001:db8:9:" in line or line.startswith("-A -f 7")
    ]
    assert len(found) == FOREIGN.count("\n"), lines
    return sorted(found)


def servers(lab: Lab) -> list[str]:
    return on_node(lab, "ipvsadm", "-S", "-n").splitlines()


def kube_proxy(lab: Lab) -> None:
    """Do what a kube-proxy in ipvs mode does when it starts."""
    for family in Family:
        tables = Iptables(SystemExec(), family, Flavour.LEGACY)
        own = [host.address(family) for host in (NODE, ALT, GATEWAY, TUNNEL, WAY_OUT)]

        def install(tables: Iptables = tables, family: Family = family, own: list[str] = own) -> None:
            install_virtual_servers(
                tables,
                cluster_ip=VIP[family],
                external_ip=EXTERNAL[family],
                node_addresses=own,
                node_port=NODE_PORT,
                endpoints=[(HOSTS[name].address(family), ECHO_PORT) for name in BACKENDS],
            )

        lab.run("node", install)


def local(lab: Lab) -> set[str]:
    """Return the virtual addresses that are local."""
    found = ""
    for ip in ("-4", "-6"):
        found += on_node(lab, "ip", ip, "route", "show", "table", "local", "dev", "kube-ipvs0", check=False)
    return {address for address in (*VIP.values(), *EXTERNAL.values()) if f"local {address} " in found}


class Inside:
    """A backend of ours on the node, for callers anywhere (`dataplane.base.Backend`)."""

    def __init__(self, lab: Lab, mode: str, family: Family) -> None:
        self._lab = lab
        self.settings = SETTINGS[mode]
        self.family = family
        self._backend: Backend = lab.run("node", lambda: MODES[mode].backend(family))

    @property
    def needs_full(self) -> bool:
        return self._backend.needs_full

    def diff(self, wanted: Wanted, scope: frozenset[Key] | None) -> Plan | None:
        return self._backend.diff(wanted, scope)

    def apply(self, plan: Plan) -> Applied:
        return self._lab.run("node", lambda: self._backend.apply(plan))

    def observe(self) -> str:
        return self._lab.run("node", self._backend.observe)

    def glance(self) -> str:
        return self._lab.run("node", self._backend.glance)

    @property
    def repairer(self) -> Self | None:
        return self if self._backend.repairer else None

    def repair(self, *, whole: bool) -> bool:
        repairer = self._backend.repairer
        assert repairer is not None
        return self._lab.run("node", lambda: repairer.repair(whole=whole))

    def cleanup(self) -> None:
        self._lab.run("node", self._backend.cleanup)

    def sync(self, world: World) -> None:
        """Bring all of a World in."""
        plan = self.diff(wanted(world, self.settings, self.family), None)
        assert plan is not None
        self.apply(plan)
