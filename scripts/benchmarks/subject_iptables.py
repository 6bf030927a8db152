"""iptables mode, in either flavour."""

import subprocess
from collections.abc import Iterable, Iterator
from functools import cached_property

import edits
import kube_proxy
import msgspec
import null_kernel
from edits import Edit
from figures import Size
from meter import timed
from subject import FAMILY, Floor

from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.localnet import ROUTE_LOCALNET
from kubeproxy.dataplane.iptables.machine import iptables_hints, others_changes
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.writers import Writers
from kubeproxy.modes import Parts, parts_of
from kubeproxy.options import parse

LARGEST_LAYOUT = {Flavour.LEGACY: 30_000, Flavour.NFT: 1_000}
"""Services up to which kube-proxy's layout is loaded: 10 s at 30,000 in legacy, 15 s at 5,000 in nft."""

FLOOR_SECONDS = 3600
"""In which a program must be done: the agent has less patience than kube-proxy's layout takes with --slow."""


class Recording(Iptables):
    """The programs, remembering the last text (its pieces, so that it costs next to nothing)."""

    pieces: list[str]

    def restore(self, text: str | Iterable[str]) -> None:
        self.pieces = []
        super().restore(self._noted(text))

    def _noted(self, text: Iterable[str]) -> Iterator[str]:
        for piece in text:
            self.pieces.append(piece)
            yield piece


class IptablesSubject:
    """See `subject.Subject`."""

    ipvs = None

    def __init__(self, flavour: Flavour, slow: bool) -> None:
        self.name = f"iptables-{flavour}"
        self._flavour = flavour
        self._slow = slow
        self._writers = Writers()
        self._told = others_changes()
        self._tables = Recording(SystemExec(self._writers), FAMILY, flavour)

    @cached_property
    def parts(self) -> Parts:
        parts = parts_of(parse(["--mode=iptables"]), self._flavour)
        hints = iptables_hints(FAMILY, self._flavour, self._writers, self._told)
        return msgspec.structs.replace(parts, backend=lambda family: self.backend(), hints=lambda family: hints)

    def backend(self) -> Backend:
        # As on a node where it is set already: remembering that it was not is one more restore, once.
        ProcSysctls().ensure(ROUTE_LOCALNET, "1")
        told = self._told if self._flavour is Flavour.NFT else None
        return IptablesBackend(self._tables, Ipset(FAMILY), ProcSysctls(), FAMILY, Nfacct(), told)

    def null_backend(self) -> Backend:
        tables, sets = null_kernel.NullTables(), null_kernel.NullSets()
        return IptablesBackend(tables, sets, null_kernel.NullSysctls(), FAMILY, null_kernel.NullNfacct())

    def load_floors(self, size: Size) -> Iterator[Floor]:
        text = "".join(self._tables.pieces)
        yield Floor(f"{self._program} of the same text", lambda: self._bare(text))
        if self._slow or size.services * size.endpoints <= 3 * LARGEST_LAYOUT[self._flavour]:
            layout = kube_proxy.iptables(size)
            rounds = 3 if size.services * size.endpoints <= 3_000 else 1
            yield Floor(f"{self._program} of kube-proxy's layout", lambda: self._bare(layout), rounds)

    def read_floors(self, size: Size) -> Iterator[Floor]:
        program = f"iptables-{self._flavour}-save"
        yield Floor(program, lambda: timed(lambda: self._run(program)))

    def change_floors(self, size: Size, *, added: bool) -> Iterator[Floor]:
        text = "".join(self._tables.pieces)
        if "\n-D " not in text:  # when a branch of a shared chain came or went: that cannot be done again
            twice = appended_again(text)
            yield Floor(f"{self._program} of the same text", lambda: self._restored(text, twice), rounds=9)

    def edits(self, size: Size) -> Iterator[Edit]:
        return edits.in_iptables(self._flavour, size)

    def held(self) -> object:
        return edits.held_in_iptables(self._flavour)

    @property
    def _program(self) -> str:
        return f"iptables-{self._flavour}-restore"

    def _bare(self, text: str) -> float:
        """Load all with nothing but the program; the sets that rules name must be there."""
        sets = Ipset(FAMILY)
        sets.create(names.LOCAL_ENDPOINTS[FAMILY], SetType.ENDPOINTS)
        sets.create(names.CLUSTER_IPS[FAMILY], SetType.ADDRESSES)
        for name in names.COUNTERS:
            Nfacct().ensure(name)
        return self._restore(text)

    def _restore(self, text: str) -> float:
        argv = [self._program, "--wait", "5", "--noflush", "--counters"]
        # As one of the agent's own programs: it would take another's writing for a disturbance, and repair it.
        return timed(lambda: SystemExec(self._writers).run(argv, stdin=text, timeout=FLOOR_SECONDS))

    def _restored(self, text: str, twice: str) -> float:
        seconds = self._restore(text)
        if twice:
            self._restore(twice)
        return seconds

    def _run(self, *argv: str) -> None:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def appended_again(text: str) -> str:
    """Return what takes back the rules that a text, restored once more, adds to chains it does not begin anew."""
    lines: list[str] = []
    begun: set[str] = set()
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        if verb.startswith(":"):
            begun.add(verb[1:])
        elif verb in ("-A", "-I") and rest.partition(" ")[0] not in begun:
            lines.append(f"-D {rest}")
        elif verb == "COMMIT" or verb.startswith("*"):
            lines.append(line)
            begun.clear()
    return "".join(f"{line}\n" for line in lines) if any(line.startswith("-D") for line in lines) else ""
