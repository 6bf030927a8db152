"""Which block of the cluster's pod network a node gets. PURE.

As kube-controller-manager's range allocator: blocks of one size, each held by at most one node, the lowest free
one first. What a node holds already counts whatever its size, so blocks that somebody gave by hand are respected.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from kubeproxy.model.blocks import free_blocks
from kubeproxy.model.objects import Record

_WIDEST_SPLIT = 16
"""Bits between the network and its blocks: 65,536 nodes (cidrset.clusterSubnetMaxDiff)."""
_LONGEST_BLOCK = 30


class PodNetwork(Record, frozen=True, kw_only=True):
    """The cluster's pod network and how much of it a node gets."""

    network: str
    block_length: int = 24

    def blocks(self) -> Iterator[IPv4Network]:
        """Yield every block, lowest first."""
        return IPv4Network(self.network).subnets(new_prefix=self.block_length)


def pod_network(text: str, block_length: int) -> PodNetwork:
    """Check --cluster-cidr and --node-cidr-mask-size. Raises ValueError."""
    try:
        network = IPv4Network(text)
    except ValueError:
        raise ValueError(f"cluster-cidr {text!r} is no IPv4 network such as 10.244.0.0/16") from None
    lowest, highest = network.prefixlen, min(network.prefixlen + _WIDEST_SPLIT, _LONGEST_BLOCK)
    if not lowest <= block_length <= highest:
        raise ValueError(f"node-cidr-mask-size {block_length} is not within {lowest}-{highest} for {network}")
    return PodNetwork(network=str(network), block_length=block_length)


def free_pod_cidrs(pods: PodNetwork, held: Iterable[str]) -> Iterator[str]:
    """Yield the blocks that overlap nothing that is held, lowest first; what is held is canonical."""
    networks = (IPv4Network(cidr) for cidr in held if ":" not in cidr)
    yield from map(str, free_blocks(pods.blocks(), networks))
