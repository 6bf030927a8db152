"""What an administrator, and the owner of a Service, may choose of IPVS."""

from kubeproxy.model.objects import Record

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh")
"""How IPVS picks a destination (ipvsadm(8)). Each is a kernel module of its own, `ip_vs_rr` and so on."""
DEFAULT_SCHEDULER = "rr"


class IpvsSettings(Record, frozen=True, kw_only=True):
    """The configuration's block `ipvs`, checked; its periods are the syncer's business."""

    scheduler: str = DEFAULT_SCHEDULER
    """Of every Service that asks for no other. May be one that is not in `SCHEDULERS` if the kernel has it."""
    exclude_cidrs: tuple[str, ...] = ()
    """Canonical CIDRs; a virtual server within is never removed as somebody's leftover."""
    strict_arp: bool = False
    """Whether other machines are to hear of no address of this node but on the interface that has it."""
    tcp_timeout: int = 0
    """Whole seconds, as the next two: until IPVS forgets an idle TCP connection; 0 leaves the kernel's."""
    tcp_fin_timeout: int = 0
    """The same after a FIN."""
    udp_timeout: int = 0
    """The same of UDP."""
