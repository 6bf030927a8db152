"""The kernel parameters that ipvs mode needs: which, as a pure list, and setting those that differ.

They are upstream's. A cleanup leaves them, as kube-proxy's does: those of IPVS have no effect without virtual
servers, and nobody can tell whether others count on forwarding and on strict ARP meanwhile.
"""

from kubeproxy.dataplane.ipvs.names import DEVICE
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings

RELEASE = "kernel/osrelease"

ALWAYS = (
    ("net/ipv4/vs/conntrack", "1"),  # masquerading, and ending stale UDP flows, need the entries
    ("net/ipv4/vs/expire_nodest_conn", "1"),  # a connection whose destination is gone is not held to it
    ("net/ipv4/vs/expire_quiescent_template", "1"),  # nor a sticky client to one that ends
    ("net/ipv4/ip_forward", "1"),
)
STRICT_ARP = (("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2"))
REUSE = ("net/ipv4/vs/conn_reuse_mode", "0")
"""1 costs every connection that reuses a source port a second, in kernels from 4.1 until 5.9 mended it."""


def wanted_sysctls(settings: IpvsSettings, release: str) -> tuple[tuple[str, str], ...]:
    """Return names and values for a kernel of a release such as `6.1.0-18-amd64`. Pure."""
    reuse = (REUSE,) if (4, 1) <= _version(release) < (5, 9) else ()
    return (*ALWAYS, *reuse, *(STRICT_ARP if settings.strict_arp else ()))


def ensure_sysctls(sysctls: Sysctls, settings: IpvsSettings) -> None:
    """Set what differs, in the network namespace of the calling thread. Raises SysctlRefused."""
    for name, value in wanted_sysctls(settings, sysctls.read(RELEASE)):
        sysctls.ensure(name, value)


def ensure_family(sysctls: Sysctls, family: Family) -> None:
    """Have our device, which must be there, serve a family: some hosts have no IPv6 on new devices.

    Raises SysctlRefused.
    """
    if family is Family.V6:
        sysctls.ensure(f"net/ipv6/conf/{DEVICE}/disable_ipv6", "0")


def _version(release: str) -> tuple[int, int]:
    """Return the first two numbers; a kernel that does not tell counts as a new one."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (99, 0)
