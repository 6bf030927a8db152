"""ipvs mode; where this kernel has no IPVS, inside a machine that has (`places.py`)."""

import subprocess
from collections.abc import Iterator
from functools import cached_property

import cluster
import edits
import null_kernel
from edits import Edit
from figures import Size
from meter import timed
from subject import FAMILY, Floor

from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.modes import Parts, parts_of
from kubeproxy.options import parse

WEIGHT = " -m -w 1"
NOBODYS = "192.0.2.1"
"""A virtual server that is none of ours, so that ours stay as they are."""


class IpvsSubject:
    """See `subject.Subject`."""

    name = "ipvs"
    ipvs = IpvsSettings()

    def __init__(self, slow: bool) -> None:
        """See the class; no floor takes minutes."""

    @cached_property
    def parts(self) -> Parts:
        return parts_of(parse(["--mode=ipvs"]), Flavour.LEGACY)

    def backend(self) -> Backend:
        return self.parts.backend(FAMILY)

    def null_backend(self) -> Backend:
        return IpvsBackend(
            null_kernel.NullRulebook(),
            null_kernel.NullSets(),
            null_kernel.NullVirtualServers(),
            null_kernel.NullAddresses(),
            null_kernel.NullSysctls(),
            FAMILY,
            self.ipvs,
            tuple,
        )

    def load_floors(self, size: Size) -> Iterator[Floor]:
        text = "\n".join(_saved(size)) + "\n"
        yield Floor("ipvsadm -R of the same virtual servers", lambda: _ipvsadm("-R", text), _rounds(size))

    def read_floors(self, size: Size) -> Iterator[Floor]:
        yield Floor("ipvsadm -Sn", lambda: _ipvsadm("-Sn"), _rounds(size))

    def change_floors(self, size: Size, *, added: bool) -> Iterator[Floor]:
        server = f"{NOBODYS}:{cluster.PORT}"
        whole = [f"-A -t {server} -s rr", *(_destination("-a", server, turn) + WEIGHT for turn in range(3))]
        turns = iter(range(1000))

        def add() -> float:
            seconds = _ipvsadm("-R", "\n".join((*whole, "")))
            _ipvsadm("-R", f"-D -t {server}\n")
            return seconds

        def replace() -> float:
            turn = next(turns)
            old, new = _destination("-d", server, turn), _destination("-a", server, turn + 3) + WEIGHT
            return _ipvsadm("-R", f"{new}\n{old}\n")

        if added:
            yield Floor("ipvsadm -R of one virtual server", add, rounds=9)
        else:
            _ipvsadm("-R", "\n".join((*whole, "")))
            yield Floor("ipvsadm -R of one destination replaced", replace, rounds=9)
            _ipvsadm("-R", f"-D -t {server}\n")

    def edits(self, size: Size) -> Iterator[Edit]:
        return edits.in_ipvs(size)

    def held(self) -> object:
        return edits.held_in_ipvs()


def _rounds(size: Size) -> int:
    """Return how often ipvsadm goes through all: at 30,000 Services it takes most of a minute to write them."""
    return 3 if size.services <= 1000 else 1


def _destination(verb: str, server: str, turn: int) -> str:
    return f"{verb} -t {server} -r {cluster.later_endpoint(turn)}:{cluster.TARGET_PORT}"


def _saved(size: Size) -> Iterator[str]:
    for number in range(size.services):
        vip = f"{cluster.cluster_ip(number)}:{cluster.PORT}"
        yield f"-A -t {vip} -s rr"
        for index in range(size.endpoints):
            yield f"-a -t {vip} -r {cluster.endpoint(size, number, index)}:{cluster.TARGET_PORT}{WEIGHT}"


def _ipvsadm(verb: str, text: str = "") -> float:
    argv = ["ipvsadm", verb]
    return timed(lambda: subprocess.run(argv, input=text, text=True, check=True, stdout=subprocess.DEVNULL))
