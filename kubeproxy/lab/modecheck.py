"""Whether nodes that are namespaces can run a mode: they have this machine's kernel.

Asked inside the lab, where an ordinary user has the right to. A node with a kernel of its own asks that itself.
"""

from kubeproxy.dataplane.ipvs import needs
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.features import Features
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.lab import layout
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER


class ModeUnavailable(KernelError):
    """The kernel lacks something that the mode needs; the text names it and says what to do."""


def require(mode: str) -> None:
    """Return if this kernel has what the mode needs. Blocking; raises ModeUnavailable, KernelError, OSError."""
    if mode != "ipvs":
        return
    complain_of(needs.missing(Features(SystemExec(), Ipvs()), DEFAULT_SCHEDULER))


def complain_of(lacking: tuple[needs.Need, ...]) -> None:
    """Raise ModeUnavailable if there is anything. Pure."""
    if lacking:
        instead = f"take --vm {layout.UML}, whose kernels have them, or --mode iptables"
        raise ModeUnavailable(f"mode ipvs cannot run here: {needs.in_words(lacking)}; or {instead}")
