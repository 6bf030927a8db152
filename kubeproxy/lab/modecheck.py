"""Whether nodes that are namespaces can run a mode: they have this machine's kernel.

Asked inside the lab, where an ordinary user has the right to. A node with a kernel of its own asks that itself.
"""

import contextlib

from kubeproxy.dataplane.ipvs import needs
from kubeproxy.dataplane.nftables import needs as nft_needs
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.features import Features
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.lab import layout
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER


class ModeUnavailable(KernelError):
    """The kernel lacks something that the mode needs; the text names it and says what to do."""


def require(mode: str) -> None:
    """Return if this kernel has what the mode needs. Blocking; raises ModeUnavailable, KernelError, OSError."""
    if mode == "ipvs":
        complain_of(needs.missing(Features(SystemExec(), Ipvs()), DEFAULT_SCHEDULER))
    if mode == "nftables":
        with contextlib.closing(KernelTable(Family.V4, nft_needs.PROBE_TABLE)) as table:
            trouble = nft_needs.trouble(table)
        if trouble:
            raise ModeUnavailable(f"mode nftables cannot run here: {trouble}; or take --mode iptables")


def complain_of(lacking: tuple[needs.Need, ...]) -> None:
    """Raise ModeUnavailable if there is anything. Pure."""
    if lacking:
        instead = f"take --vm {layout.UML}, whose kernels have them, or --mode iptables"
        raise ModeUnavailable(f"mode ipvs cannot run here: {needs.in_words(lacking)}; or {instead}")
