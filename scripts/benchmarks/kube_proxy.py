"""What kube-proxy 1.36 writes for the same clusters, as texts for iptables-restore and `nft -f`. Pure.

The texts alone, without kube-proxy's own work: less than what it takes. Its layouts are those of the take-over
tests, which were written after its source: `tests/netns/upstream_iptables.py`, `upstream_nftables.py`.
"""

from functools import cache

import cluster
from figures import Size

from kubeproxy.model.decode import decode_proxy_slice, decode_service
from tests.netns import upstream_iptables, upstream_nftables
from tests.netns.upstream_ports import Node

_NODE = Node(name=cluster.NODE_NAME, ip=cluster.NODE_IP, cluster_cidr=cluster.CLUSTER_CIDR)


@cache
def iptables(size: Size) -> str:
    """Return the restore text of a full sync."""
    return upstream_iptables.render(cluster.world(size), _NODE)


@cache
def nftables(size: Size) -> str:
    """Return the transaction of a first full sync."""
    return upstream_nftables.render(cluster.world(size), _NODE)


def nftables_change(size: Size, number: int, turn: int) -> str:
    """Return the transaction for one Service whose first endpoint is another one: its chain is written anew."""
    rules = [line for line in _alone(size, number, turn) if line.startswith("add rule")]
    chain = rules[0].split()[4]
    return "\n".join((f"flush chain ip kube-proxy {chain}", *rules, ""))


def nftables_addition(size: Size, number: int, turn: int) -> str:
    """Return the transaction for a Service that is new."""
    return "\n".join((*_alone(size, number, turn), ""))


def _alone(size: Size, number: int, turn: int) -> list[str]:
    """Return what a Service adds to what is there without any."""
    world = cluster.world(Size(0))
    fixed = set(upstream_nftables.render(world, _NODE).splitlines())
    world.apply_services({cluster.key(number): decode_service(cluster.service(number))})
    for part in range(cluster.parts(size)):
        piece = decode_proxy_slice(cluster.piece(size, number, part, None if part else turn))
        world.apply_slices({(piece.namespace, piece.name): piece})
    return [line for line in upstream_nftables.render(world, _NODE).splitlines() if line not in fixed]
