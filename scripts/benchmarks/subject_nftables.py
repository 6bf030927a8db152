"""nftables mode."""

import subprocess
from collections.abc import Iterable, Iterator, Sequence
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
from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.machine import nftables_hints
from kubeproxy.kernel.nf_tables.base import NAME
from kubeproxy.kernel.nf_tables.batch import datagram, encode, transactions
from kubeproxy.kernel.nf_tables.socket import BatchSocket
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import Change
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.writers import Writers
from kubeproxy.modes import Parts, parts_of
from kubeproxy.options import parse

LARGEST_LAYOUT = 10_000
"""Services up to which kube-proxy's layout is loaded: 10 s at 10,000, and it grows with their square."""


class Recording(KernelTable):
    """The table, remembering the steps of the last transaction."""

    steps: Sequence[Change] = ()

    def commit(self, changes: Iterable[Change], after: int | None = None) -> int:
        self.steps = changes if isinstance(changes, Sequence) else list(changes)
        return super().commit(self.steps, after)


class NftablesSubject:
    """See `subject.Subject`."""

    name = "nftables"
    ipvs = None

    def __init__(self, slow: bool) -> None:
        self._slow = slow
        self._writers, self._journal = Writers(), Journal()
        self._table = Recording(FAMILY, writers=self._writers)

    @cached_property
    def parts(self) -> Parts:
        return msgspec.structs.replace(
            parts_of(parse(["--mode=nftables"]), None),
            backend=lambda family: self.backend(),
            hints=lambda family: nftables_hints(family, self._writers, self._journal),
        )

    def backend(self) -> Backend:
        self._table.close()
        self._table = Recording(FAMILY, writers=self._writers)
        return NftablesBackend(self._table, ProcSysctls(), FAMILY, journal=self._journal)

    def null_backend(self) -> Backend:
        return NftablesBackend(null_kernel.NullTable(FAMILY), null_kernel.NullSysctls(), FAMILY)

    def load_floors(self, size: Size) -> Iterator[Floor]:
        batches = list(_batches(self._table.steps))
        yield Floor("the same batch, sent again", lambda: _send(batches))
        if self._has_layout(size):
            layout = kube_proxy.nftables(size)
            rounds = 3 if size.services * size.endpoints <= 3_000 else 1
            yield Floor("nft -f of kube-proxy's layout", lambda: _nft(layout), rounds)

    def read_floors(self, size: Size) -> Iterator[Floor]:
        argv = ["nft", "list", "table", "ip", NAME]
        yield Floor(
            "nft list table", lambda: timed(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))
        )

    def change_floors(self, size: Size, *, added: bool) -> Iterator[Floor]:
        if not self._has_layout(size):
            return
        turns = iter(range(1_000))
        loaded = False

        def change() -> float:
            nonlocal loaded
            if not loaded:
                _nft(kube_proxy.nftables(size))
                loaded = True
            turn = next(turns)
            if added:
                return _nft(kube_proxy.nftables_addition(size, size.services + turn, turn))
            return _nft(kube_proxy.nftables_change(size, turn % size.services, turn))

        yield Floor("nft -f of the same in kube-proxy's layout", change, rounds=9, apart=True)

    def edits(self, size: Size) -> Iterator[Edit]:
        return edits.in_nftables(FAMILY, size)

    def held(self) -> object:
        return edits.held_in_nftables(FAMILY)

    def _has_layout(self, size: Size) -> bool:
        return self._slow or size.services * size.endpoints <= 3 * LARGEST_LAYOUT


def _batches(steps: Sequence[Change]) -> Iterator[tuple[bytes, int, int]]:
    """Yield what is sent, and its first and last number."""
    first = 1
    for parts in transactions(encode(FAMILY, NAME, steps), 1 << 30):
        yield datagram(parts, first, None), first, first + len(parts)
        first += len(parts) + 2


def _send(batches: Sequence[tuple[bytes, int, int]]) -> float:
    with BatchSocket() as netlink:
        return timed(lambda: [_accepted(netlink.transact(*batch)) for batch in batches])


def _accepted(refusals: Sequence[object]) -> None:
    assert not refusals, f"refused: {refusals[:1]}"


def _nft(text: str) -> float:
    return timed(lambda: subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True))
