"""What serves in place of a scheduler that the kernel does not have. Pure."""

from collections.abc import Collection

import msgspec

from kubeproxy.dataplane.ipvs.part import Part, Virtual
from kubeproxy.kernel.ipvs_types import FALLBACK, SOURCE_PORT, Server
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER

_NEXT_BEST = {"mh": "sh"}
"""Those that keep a client with its destination give way to one that does too."""
_HASHING = ("mh", "sh")


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


def _served(virtual: Virtual, lacking: Collection[str]) -> Virtual:
    return msgspec.structs.replace(virtual, server=substitute(virtual.server, lacking))
