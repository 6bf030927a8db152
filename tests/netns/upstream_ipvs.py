"""What kube-proxy 1.36 leaves on a node in ipvs mode, the virtual servers left out, as not every kernel has IPVS.

As reference/kube-proxy.md §2.2 to 2.4 describes it.
"""

import re

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Iptables
from kubeproxy.model.addresses import Family
from tests.netns.upstream_ports import MARK

_SETS = {
    "LOOP-BACK": "hash:ip,port,ip",
    "CLUSTER-IP": "hash:ip,port",
    "EXTERNAL-IP": "hash:ip,port",
    "EXTERNAL-IP-LOCAL": "hash:ip,port",
    "LOAD-BALANCER": "hash:ip,port",
    "LOAD-BALANCER-LOCAL": "hash:ip,port",
    "LOAD-BALANCER-FW": "hash:ip,port",
    "LOAD-BALANCER-SOURCE-IP": "hash:ip,port,ip",
    "LOAD-BALANCER-SOURCE-CIDR": "hash:ip,port,net",
    "NODE-PORT-TCP": "bitmap:port",
    "NODE-PORT-LOCAL-TCP": "bitmap:port",
    "NODE-PORT-UDP": "bitmap:port",
    "NODE-PORT-LOCAL-UDP": "bitmap:port",
    "NODE-PORT-SCTP-HASH": "hash:ip,port",
    "NODE-PORT-LOCAL-SCTP-HASH": "hash:ip,port",
    "HEALTH-CHECK-NODE-PORT": "bitmap:port",
    "IPVS-IPS": "hash:ip",
}

IPVS_JUMPS = (
    ("nat", "OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", "kubernetes postrouting rules"),
    ("filter", "FORWARD", "KUBE-FORWARD", "kubernetes forwarding rules"),
    ("filter", "INPUT", "KUBE-NODE-PORT", "kubernetes health check rules"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "INPUT", "KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
    ("filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter"),
)

_NAT = """*nat
-A KUBE-SERVICES -s {loopback} -j RETURN
-A KUBE-SERVICES {comment} -m set --match-set {set}LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES {comment} -m set --match-set {set}CLUSTER-IP src,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES {comment} -m set --match-set {set}EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set {set}CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SERVICES -m set --match-set {set}LOAD-BALANCER dst,dst -j ACCEPT
-A KUBE-LOAD-BALANCER -m set --match-set {set}LOAD-BALANCER-LOCAL dst,dst -j RETURN
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p tcp -m set --match-set {set}NODE-PORT-LOCAL-TCP dst -j RETURN
-A KUBE-NODE-PORT -p tcp -m set --match-set {set}NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set {set}LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark {mark}/{mark} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {mark}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark {mark}
COMMIT
*filter
-A KUBE-FORWARD -m mark --mark {mark}/{mark} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-NODE-PORT -m set --match-set {set}HEALTH-CHECK-NODE-PORT dst -j ACCEPT
-A KUBE-PROXY-FIREWALL -m set --match-set {set}LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -m set --match-set {set}LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j RETURN
-A KUBE-SOURCE-RANGES-FIREWALL -m set --match-set {set}LOAD-BALANCER-SOURCE-IP dst,dst,src -j RETURN
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-A KUBE-IPVS-FILTER -m set --match-set {set}LOAD-BALANCER dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set {set}CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set {set}EXTERNAL-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set {set}EXTERNAL-IP-LOCAL dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set {set}HEALTH-CHECK-NODE-PORT dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {set}IPVS-IPS dst -j REJECT
COMMIT
"""


def set_names(family: Family) -> list[str]:
    return [f"{_prefix(family)}{name}"[:31] for name in _SETS]


def _prefix(family: Family) -> str:
    return "KUBE-" if family is Family.V4 else "KUBE-6-"


def install_ipvs(tables: Iptables) -> None:
    """Make what the ipvs mode makes in one family's iptables and ipsets, in the order in which it does."""
    v4 = tables.family is Family.V4
    size = f"family {'inet' if v4 else 'inet6'} hashsize 1024 maxelem 65536"
    lines = [
        f"create {name} {kind} {'range 0-65535' if kind.startswith('bitmap') else size} -exist"
        for name, kind in zip(set_names(tables.family), _SETS.values(), strict=True)
    ]
    vip = "10.96.0.10" if v4 else "fd00::10"
    lines += [f"add {_prefix(tables.family)}CLUSTER-IP {vip},tcp:80 -exist"]
    lines += [f"add {_prefix(tables.family)}IPVS-IPS {vip} -exist"]
    SystemExec().run(["ipset", "restore"], stdin="\n".join(lines) + "\n")
    for table, chain, target, comment in IPVS_JUMPS:
        tables.run("-t", table, "-N", target, check=False)
        rule = (chain, "-m", "comment", "--comment", comment, "-j", target)
        if tables.run("-t", table, "-C", *rule, check=False).status:
            tables.run("-t", table, "-I", *rule)
    text = _NAT.format(
        loopback="127.0.0.0/8" if v4 else "::1/128",
        comment='-m comment --comment "Kubernetes service"',
        set=_prefix(tables.family),
        mark=MARK,
    )
    declared: dict[str, list[str]] = {"nat": [], "filter": []}
    table = ""
    for line in text.splitlines():
        table = line[1:] if line.startswith("*") else table
        chain = line.split(" ")[1] if line.startswith("-A") else ""
        if chain and chain not in declared[table]:
            declared[table].append(chain)
    declared["filter"].append("KUBE-IPVS-OUT-FILTER")
    for name, chains in declared.items():
        text = text.replace(f"*{name}\n", f"*{name}\n" + "".join(f":{chain} - [0:0]\n" for chain in chains))
    tables.restore(re.sub(r"--match-set (\S+)", lambda match: f"--match-set {match[1][:31]}", text))
