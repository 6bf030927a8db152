"""The rules that stand while connections of an ipvs mode end under another mode: who is still heard. Pure.

The virtual addresses of such connections are local yet. Without a rule, this node's own processes would answer at
their other ports. The chains are those that either ipvs mode, ours and kube-proxy's, has for this.
"""

from kubeproxy.dataplane.iptables.jumps import declare, missing_jumps, parse_save
from kubeproxy.dataplane.ipvs.names import ACCESS, OUT_ACCESS, Set, set_name
from kubeproxy.dataplane.ipvs.rules import JUMPS
from kubeproxy.dataplane.leftovers.upstream import Owned
from kubeproxy.model.addresses import Family

TABLE = "filter"
_CHAINS = (ACCESS, OUT_ACCESS)

GUARD = Owned(
    chains={TABLE: _CHAINS}, service_chains=False, jumps=tuple(jump for jump in JUMPS if jump.target in _CHAINS)
)
"""What stays of the ipvs modes in the tables."""


def guard(family: Family, saved: str) -> str:
    """Return what to restore so that the rules stand; "" when they do, as ``saved`` of the filter table says."""
    kind = "icmp-port-unreachable" if family is Family.V4 else "icmp6-port-unreachable"
    servers, addresses = (set_name(family, which) for which in (Set.SERVERS, Set.ADDRESSES))
    refusal = f"-m conntrack --ctstate NEW -m set --match-set {addresses} dst -j REJECT --reject-with {kind}"
    rules = [
        f"-A {ACCESS} -m conntrack --ctstate RELATED,ESTABLISHED -m set --match-set {servers} dst,dst -j ACCEPT",
        f"-A {ACCESS} {refusal}",
        f"-A {OUT_ACCESS} {refusal}",
    ]
    jumps = missing_jumps(GUARD.jumps, TABLE, parse_save(saved, _CHAINS.__contains__))
    standing = [line for line in saved.splitlines() if line.startswith(tuple(f"-A {each} " for each in _CHAINS))]
    if standing == rules and not jumps:
        return ""
    return "\n".join([f"*{TABLE}", declare(_CHAINS) + jumps + "\n".join(rules), "COMMIT", ""])
