"""ipvs mode; where this kernel has no IPVS, inside a machine that has (`places.py`)."""

import subprocess
from collections.abc import Iterator
from functools import cached_property

import cluster
import null_kernel
from figures import Size
from meter import timed
from subject import FAMILY, Floor

from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.modes import Parts, parts_of
from kubeproxy.options import parse

EDIT = "-a -t {server} -r {new}:8080 -m -w 1\n-d -t {server} -r {old}:8080\n"
"""What replaces a destination in ipvsadm's words."""
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
        yield Floor("ipvsadm -R of the same virtual servers", lambda: _ipvsadm("-R", text), rounds=2)

    def read_floors(self, size: Size) -> Iterator[Floor]:
        yield Floor("ipvsadm -Sn", lambda: _ipvsadm("-Sn"))

    def change_floors(self, size: Size) -> Iterator[Floor]:
        server = f"{NOBODYS}:{cluster.PORT}"
        first = f"{cluster.later_endpoint(0)}:{cluster.TARGET_PORT}"
        _ipvsadm("-R", f"-A -t {server} -s rr\n-a -t {server} -r {first} -m -w 1\n")
        turns = iter(range(1000))

        def edit() -> float:
            turn = next(turns)
            old, new = cluster.later_endpoint(turn), cluster.later_endpoint(turn + 1)
            return _ipvsadm("-R", EDIT.format(server=server, old=old, new=new))

        yield Floor("ipvsadm -R of one destination replaced", edit, rounds=9)
        _ipvsadm("-R", f"-D -t {server}\n")


def _saved(size: Size) -> Iterator[str]:
    for number in range(size.services):
        vip = f"{cluster.cluster_ip(number)}:{cluster.PORT}"
        yield f"-A -t {vip} -s rr"
        for index in range(size.endpoints):
            yield f"-a -t {vip} -r {cluster.endpoint(size, number, index)}:{cluster.TARGET_PORT} -m -w 1"


def _ipvsadm(verb: str, text: str = "") -> float:
    argv = ["ipvsadm", verb]
    return timed(lambda: subprocess.run(argv, input=text, text=True, check=True, stdout=subprocess.DEVNULL))
