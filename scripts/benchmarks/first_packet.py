"""The first packet of a connection: from connect() to the answer, through Services and straight to an endpoint.

TCP through a node between two namespaces, 2,000 connections to each destination, in turns, so that a busy machine
slows all alike. Beside each: the endpoint itself; beside the last Service: the only Service of another node, too.
"""

import cluster
from figures import Row, Size, rows
from meter import peak_mib
from packet_bed import PacketBed, packet_bed
from subject import Subject, load, settings

FIRST_PACKET = "first-packet"
CONNECTIONS, WARM_UP = 2000, 100
DIRECT, ONLY = "the endpoint itself", "the only Service of a node"

Target = tuple[PacketBed, str, int]


def measure(subject: Subject, size: Size) -> list[Row]:
    """Measure with namespaces of its own."""
    with packet_bed() as bed, packet_bed() as lone:
        for each, of in ((bed, size), (lone, Size(1))):
            each.on_node.submit(_load, subject, of).result()
        direct = (bed, cluster.endpoint(size, 0, 0), cluster.TARGET_PORT)
        targets = {DIRECT: direct, ONLY: _service(lone, 0), **_targets(bed, size)}
        found: dict[str, list[float]] = {name: [] for name in targets}
        for turn in range(CONNECTIONS + WARM_UP):
            for name, (where, address, port) in targets.items():
                seconds = where.connect(address, port)
                if turn >= WARM_UP:
                    found[name].append(seconds)
    peak = peak_mib()
    beside_all = {DIRECT: found.pop(DIRECT)}
    only = {ONLY: found.pop(ONLY)}
    result: list[Row] = []
    for name, samples in found.items():
        beside = beside_all | (only if name == _last(size) else {})
        result += rows(f"first packet to {name}", subject.name, size, samples, beside, rss_mib=peak)
    return result


def _load(subject: Subject, size: Size) -> None:
    load(subject.backend(), cluster.world(size), settings(subject.ipvs))


def _targets(bed: PacketBed, size: Size) -> dict[str, Target]:
    if size.services == 1:
        return {_last(size): _service(bed, 0)}
    middle, last = size.services // 2, size.services - 1
    return {
        "the first Service": _service(bed, 0),
        "the middle Service": _service(bed, middle),
        _last(size): _service(bed, last),
    }


def _last(size: Size) -> str:
    return "the last Service" if size.services > 1 else "the Service"


def _service(bed: PacketBed, number: int) -> Target:
    return bed, cluster.cluster_ip(number), cluster.PORT
