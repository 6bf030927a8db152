"""What serves in place of a scheduler that the kernel does not have. Pure."""

from collections.abc import Collection, Mapping

import msgspec

from kubeproxy.dataplane.ipvs.part import Part, Virtual
from kubeproxy.kernel.ipvs_types import FALLBACK, SOURCE_PORT, Server
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER

_NEXT_BEST = {"mh": "sh"}
"""Those that keep a client with its destination give way to one that does too."""
_HASHING = ("mh", "sh")

COSTLY = "mh"
"""Has a table of 32 KiB for each virtual server, which the kernel fills anew with each destination that comes."""
MOST_COSTS = 20_000
"""How much `costs` all Services together may have: 2,000 virtual servers, 64 MiB, or fewer with more destinations.
Anybody may ask for this scheduler, by an annotation or by affinity under policy Local."""
_SERVER_COSTS = 10


class Replaced:
    """Which ports' schedulers others serve instead of, for those who look from other threads. Empty at first."""

    def __init__(self) -> None:
        self._by_family: dict[Family, Mapping[ServicePortName, Collection[str]]] = {}

    def note(self, family: Family, schedulers: Mapping[ServicePortName, Collection[str]]) -> None:
        """Take a family's, by port; further changes of the mapping are seen."""
        self._by_family[family] = schedulers

    def of(self, family: Family, name: ServicePortName) -> Collection[str]:
        """Return the schedulers that a port cannot have."""
        return self._by_family.get(family, {}).get(name, ())


def substitute(server: Server, lacking: Collection[str]) -> Server:
    """Return the virtual server with the next best scheduler that the kernel has."""
    scheduler = server.scheduler
    while scheduler in lacking and scheduler != DEFAULT_SCHEDULER:
        scheduler = _NEXT_BEST.get(scheduler, DEFAULT_SCHEDULER)
    if scheduler == server.scheduler:
        return server
    flags = server.flags if scheduler in _HASHING else server.flags & ~(FALLBACK | SOURCE_PORT)
    return msgspec.structs.replace(server, scheduler=scheduler, flags=flags)


def served(part: Part, lacking: Collection[str]) -> tuple[Part, str]:
    """Return a Part as this kernel can serve it, and a note on what is otherwise than was asked, "" if nothing."""
    missing = sorted({each.server.scheduler for each in part.virtuals} & set(lacking))
    if not missing:
        return part, ""
    virtuals = tuple(_served(each, lacking) for each in part.virtuals)
    first = next(each.server for each in part.virtuals if each.server.scheduler == missing[0])
    instead = substitute(first, lacking).scheduler
    note = f"the kernel has no scheduler {missing[0]} (modprobe ip_vs_{missing[0]}), so {instead} serves instead"
    return msgspec.structs.replace(part, virtuals=virtuals), note


def costs(part: Part) -> int:
    """Return how much of `MOST_COSTS` a Part takes."""
    total = 0
    for each in part.virtuals:
        if each.server.scheduler == COSTLY:
            total += _SERVER_COSTS + len(each.destinations)
    return total


def saving(part: Part, lacking: Collection[str]) -> tuple[Part, str]:
    """Return a Part without the costly scheduler, which counts among those ``lacking``, and a note on it."""
    cheap, _ = served(part, lacking)
    instead = substitute(Server(part.virtuals[0].server.key, COSTLY), lacking).scheduler
    return cheap, f"so many virtual servers have scheduler {COSTLY} that {instead} serves instead of more of them"


def _served(virtual: Virtual, lacking: Collection[str]) -> Virtual:
    return msgspec.structs.replace(virtual, server=substitute(virtual.server, lacking))
