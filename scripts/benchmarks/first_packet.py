"""The first packet of a connection: from connect() to the answer, through Services and straight to an endpoint.

TCP through a node between two namespaces, 2,000 connections to each destination, in turns and in another order
each time, so that a busy machine slows all alike. Beside each: straight to endpoints. Beside the last Service:
the only Service of another node, which is asked as often as all of this one's together, or it would be found cold.
"""

import random

import cluster
from figures import Row, Size, rows
from meter import peak_mib
from packet_bed import PacketBed, packet_bed
from subject import Subject, load, settings

FIRST_PACKET = "first-packet"
CONNECTIONS, WARM_UP = 2000, 100
DIRECT, ONLY = "the endpoints themselves", "the only Service of a node"

Target = tuple[PacketBed, str, int]


def measure(subject: Subject, size: Size) -> list[Row]:
    """Measure with namespaces of its own."""
    with packet_bed() as bed, packet_bed() as lone:
        for each, of in ((bed, size), (lone, Size(1))):
            each.on_node.submit(_load, subject, of).result()
        targets = _targets(bed, size)
        found: dict[str, list[float]] = {name: [] for name in (DIRECT, ONLY, *targets)}
        order = random.Random(0)
        for turn in range(-WARM_UP, CONNECTIONS):
            # As many endpoints as the Service chooses among: each is somebody else for the caches on the way.
            endpoint = cluster.endpoint(size, 0, turn % size.endpoints)
            destinations = [*targets.items(), (DIRECT, (bed, endpoint, cluster.TARGET_PORT))]
            destinations += [(ONLY, _service(lone, 0))] * len(destinations)
            order.shuffle(destinations)
            for name, (where, address, port) in destinations:
                seconds = where.connect(address, port)
                if turn >= 0:
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
