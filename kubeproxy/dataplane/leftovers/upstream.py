"""What kube-proxy's modes leave on a node, by name; ours uses the same names where it has the same things. Pure.

Chains that a kubelet makes too (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT) are in no list: it
counts on them.
"""

from enum import StrEnum

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.jumps import Jump
from kubeproxy.dataplane.iptables.tables import CHAINS, JUMPS
from kubeproxy.dataplane.ipvs import rules
from kubeproxy.dataplane.ipvs.names import NFT_TABLE, Set, set_name
from kubeproxy.kernel.nf_tables.base import NAME as NFT_NAME
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record


class Mode(StrEnum):
    """A way of programming the kernel."""

    IPTABLES = "iptables"
    IPVS = "ipvs"
    NFTABLES = "nftables"


class Owned(Record, frozen=True, kw_only=True):
    """What a mode has in the iptables tables."""

    chains: dict[str, tuple[str, ...]]
    """Chains of each table, by their whole names."""
    service_chains: bool
    """Whether chains that come and go with Services (`names.varies`) belong to it."""
    jumps: tuple[Jump, ...]
    """Rules in built-in chains that lead into these or other modes' chains; known by their ends and comments."""

    def owns(self, table: str, chain: str) -> bool:
        """Return whether a chain belongs to the mode."""
        if self.service_chains and names.varies(table, chain):
            return True
        return chain in self.chains.get(table, ())

    def is_jump(self, table: str, chain: str, target: str, rule: str) -> bool:
        """Return whether a rule that stands in ``chain`` and leads to ``target`` belongs to the mode."""
        ends = table, chain, target
        return any(
            (each.table, each.chain, each.target) == ends and f'"{each.comment}"' in rule for each in self.jumps
        )

    def joined(self, other: "Owned") -> "Owned":
        """Return what belongs to either mode."""
        tables = dict.fromkeys((*self.chains, *other.chains))
        return Owned(
            chains={
                table: tuple(dict.fromkeys((*self.chains.get(table, ()), *other.chains.get(table, ()))))
                for table in tables
            },
            service_chains=self.service_chains or other.service_chains,
            jumps=tuple(dict.fromkeys((*self.jumps, *other.jumps))),
        )

    def without(self, other: "Owned") -> "Owned":
        """Return what belongs to this one alone."""
        return Owned(
            chains={
                table: tuple(chain for chain in chains if chain not in other.chains.get(table, ()))
                for table, chains in self.chains.items()
            },
            service_chains=self.service_chains and not other.service_chains,
            jumps=tuple(jump for jump in self.jumps if jump not in other.jumps),
        )


_ACCESS = "kubernetes ipvs access filter"
_FIREWALL = "kube-proxy firewall rules"
NODE_PORT = "KUBE-NODE-PORT"
IPVS_FILTER, IPVS_OUT_FILTER = "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"

IPTABLES_OWNED = Owned(chains=CHAINS, service_chains=True, jumps=JUMPS)
"""Ours and upstream's alike."""

OUR_IPVS = Owned(chains=rules.CHAINS, service_chains=False, jumps=rules.JUMPS)
"""What our ipvs mode has."""

IPVS_OWNED = OUR_IPVS.joined(
    Owned(
        chains={
            "nat": (NODE_PORT, "KUBE-LOAD-BALANCER"),
            "filter": (
                NODE_PORT,
                "KUBE-SOURCE-RANGES-FIREWALL",
                IPVS_FILTER,
                IPVS_OUT_FILTER,
                names.PROXY_FIREWALL,
            ),
        },
        service_chains=False,
        jumps=(
            Jump("filter", "INPUT", NODE_PORT, "", "kubernetes health check rules"),
            Jump("filter", "INPUT", IPVS_FILTER, "", _ACCESS),
            Jump("filter", "OUTPUT", IPVS_OUT_FILTER, "", _ACCESS),
            Jump("filter", "INPUT", names.PROXY_FIREWALL, "", _FIREWALL),
            Jump("filter", "FORWARD", names.PROXY_FIREWALL, "", _FIREWALL),
        ),
    )
)
"""And what upstream's has beside."""

EVERY_OWNED = IPTABLES_OWNED.joined(IPVS_OWNED)

BUT_IPTABLES, BUT_OUR_IPVS = EVERY_OWNED.without(IPTABLES_OWNED), EVERY_OWNED.without(OUR_IPVS)
"""What goes where the one or the other serves: many chains bear the same names in both."""

_SETS = (
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-CIDR",
    "LOAD-BALANCER-SOURCE-IP",
    "LOOP-BACK",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-TCP",
    "NODE-PORT-UDP",
)
_MAX_SET_NAME = 31

IPVS_SETS = {
    Family.V4: tuple(f"KUBE-{name}" for name in _SETS),
    Family.V6: tuple(f"KUBE-6-{name}"[:_MAX_SET_NAME] for name in _SETS),
}
"""ipsets of upstream's ipvs mode; its own cleanup forgets those of IPv6."""

OUR_IPVS_SETS = {family: tuple(set_name(family, each) for each in Set) for family in Family}
"""Those of our ipvs mode, many with upstream's names."""

IPVS_DEVICE, IPVS_DEVICE_KIND = "kube-ipvs0", "dummy"
NFTABLES_TABLE = NFT_NAME
"""Upstream's, one in the family `ip`, one in `ip6`; our nftables mode has taken the name over."""


def owns(table: str, chain: str) -> bool:
    """Return whether a chain belongs to a mode, ours or upstream's, of iptables or in a table of nftables."""
    return table in (NFTABLES_TABLE, NFT_TABLE) or EVERY_OWNED.owns(table, chain)
