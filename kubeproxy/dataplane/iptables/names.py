"""Every name that iptables mode gives to a kernel object stands here, once.

The chains' names and the hash in those of a Service are upstream's, so that runbooks, dashboards and people
who know kube-proxy find their way; and so that one takes over from the other on a running node.
"""

from hashlib import sha256

from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol

# Chains of the nat table.
SERVICES = "KUBE-SERVICES"  # all virtual addresses; node ports last (also in filter: cluster IPs without answer)
NODEPORTS = "KUBE-NODEPORTS"  # node ports (also in filter: what may reach the node itself)
POSTROUTING = "KUBE-POSTROUTING"  # masquerading
MARK_MASQ = "KUBE-MARK-MASQ"  # marks a connection for it

# Chains of the filter table.
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"  # addresses seen from outside that have no endpoints
FORWARD = "KUBE-FORWARD"  # lets forwarded service traffic pass
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"  # load balancer traffic that no source range admitted

# In every table, with a rule that does nothing: whoever flushes a table takes it along.
CANARY = "KUBE-PROXY-CANARY"

# Chains of one Service port (nat); the same hash follows each.
SERVICE_PREFIX = "KUBE-SVC-"  # chooses among the cluster's endpoints
LOCAL_PREFIX = "KUBE-SVL-"  # chooses among this node's
EXTERNAL_PREFIX = "KUBE-EXT-"  # traffic to external addresses: mark, or tell whose it is; then choose
FIREWALL_PREFIX = "KUBE-FW-"  # source ranges of a load balancer
ENDPOINT_PREFIX = "KUBE-SEP-"  # one endpoint; only where affinity needs to remember it
SERVICE_CHAINS = (SERVICE_PREFIX, LOCAL_PREFIX, EXTERNAL_PREFIX, FIREWALL_PREFIX, ENDPOINT_PREFIX)
"""Chains (nat) that begin so belong to the proxy; those that no wanted port has are stale and deleted."""

BRANCH_PREFIX = "KUBE-TREE-"
"""Chains (nat, filter) below one that all Services share, where that would be long (`dispatch.py`)."""

NAT_CHAINS = (SERVICES, NODEPORTS, POSTROUTING, MARK_MASQ, CANARY)
FILTER_CHAINS = (SERVICES, EXTERNAL_SERVICES, FORWARD, NODEPORTS, PROXY_FIREWALL, CANARY)
MANGLE_CHAINS = (CANARY,)

MAX_CHAIN_NAME = 28
"""What xtables allows. A prefix and a hash take 25; a part of a Service's chain, and no other, has three more."""

LOCAL_ENDPOINTS = {Family.V4: "KUBE-LOOP-BACK", Family.V6: "KUBE-6-LOOP-BACK"}
"""ipset of (endpoint, port, endpoint) for endpoints that may be clients of their own Service."""

CT_INVALID_COUNTER = "ct_state_invalid_dropped_pkts"
LOCALHOST_NODEPORTS_COUNTER = "localhost_nps_accepted_pkts"
COUNTERS = (CT_INVALID_COUNTER, LOCALHOST_NODEPORTS_COUNTER)
"""nfacct objects, one of each for both families."""

CLUSTER_IPS = {Family.V4: "KUBE-CLUSTER-IPS", Family.V6: "KUBE-6-CLUSTER-IPS"}
"""ipset of every cluster IP, whatever becomes of its ports."""

SETS = {family: (LOCAL_ENDPOINTS[family], CLUSTER_IPS[family]) for family in Family}
"""All ipsets."""

_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

LOWER = {Protocol.TCP: "tcp", Protocol.UDP: "udp", Protocol.SCTP: "sctp"}


_PAIRS = [first + second for first in _BASE32 for second in _BASE32]


def hash16(text: str) -> str:
    """Return upstream's hash of a text."""
    # Ten bytes of the digest are sixteen characters of base32, the length upstream cuts to. A table of pairs, and
    # no number beyond 64 bits, take half of base64.b32encode's time; this is the dearest step of rendering.
    digest = int.from_bytes(sha256(text.encode()).digest()[:10], "big")
    a, b = digest >> 40, digest & 0xFFFFFFFFFF
    pairs = _PAIRS
    return (
        f"{pairs[a >> 30]}{pairs[a >> 20 & 1023]}{pairs[a >> 10 & 1023]}{pairs[a & 1023]}"
        f"{pairs[b >> 30]}{pairs[b >> 20 & 1023]}{pairs[b >> 10 & 1023]}{pairs[b & 1023]}"
    )


def port_hash(name: ServicePortName) -> str:
    """Return the hash in the names of a Service port's own chains."""
    return hash16(f"{name}{LOWER[name.protocol]}")


def endpoint_chain(name: ServicePortName, endpoint: str) -> str:
    """Return the chain of one endpoint, given as `ip:port`; the set of its clients has the same name."""
    return ENDPOINT_PREFIX + hash16(f"{name}{LOWER[name.protocol]}{endpoint}")


def run_chain(chain: str, first: str) -> str:
    """Return what the chains of a run of a Service chain's endpoints are called after; ``first`` is its first.

    Only `part_chain` of it is a chain's name. It is no place in an order, so that it stays when other runs come.
    """
    return chain[: len(SERVICE_PREFIX)] + hash16(f"{chain} {first}")


def part_chain(chain: str, index: int) -> str:
    """Return the chain of the ``index``-th part of a Service chain whose endpoints are too many for one."""
    assert index < 36**3
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return f"{chain}{digits[index // 1296]}{digits[index // 36 % 36]}{digits[index % 36]}"


def branch_chain(letter: str, prefix: str) -> str:
    """Return the chain below a shared one, which the letter stands for, of the places with a prefix (`places.py`).

    A long prefix, of IPv6, is hashed.
    """
    return f"{BRANCH_PREFIX}{letter}-{prefix if len(prefix) < 16 else hash16(prefix)}"


def varies(table: str, chain: str) -> bool:
    """Return whether a chain is one of those that come and go with Services."""
    if table == "nat" and chain.startswith(SERVICE_CHAINS):
        return True
    return table in ("nat", "filter") and chain.startswith(BRANCH_PREFIX)
