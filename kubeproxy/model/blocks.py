"""Free blocks of a network: the lowest ones that overlap nothing that is held. PURE."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network


def free_blocks(blocks: Iterable[IPv4Network], held: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    """Yield the blocks, which ascend, that overlap none of ``held``, whatever the sizes.

    Both sequences are walked once, however many are held.
    """
    taken = sorted((int(network.network_address), int(network.broadcast_address)) for network in held)
    highest_end, upcoming = -1, 0
    for block in blocks:
        first, last = int(block.network_address), int(block.broadcast_address)
        while upcoming < len(taken) and taken[upcoming][0] <= last:
            highest_end = max(highest_end, taken[upcoming][1])
            upcoming += 1
        if highest_end < first:
            yield block
