"""Which IP families this host can be programmed in, asked once at the start.

As upstream, an agent serves both families wherever the host can, whatever the cluster uses: a family without
Services costs nothing, and a cluster may become dual-stack under a running agent.
"""

from collections.abc import Callable
from pathlib import Path

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record

IPV6_INTERFACES = Path("/proc/net/if_inet6")
"""Not there when the kernel has no IPv6, or was booted with ipv6.disable=1."""

DISABLED = "net/ipv6/conf/all/disable_ipv6"
FORWARDING = {Family.V4: "net/ipv4/ip_forward", Family.V6: "net/ipv6/conf/all/forwarding"}


class NoFamily(KernelError):
    """The host can do neither; the text says why."""


class HostFamilies(Record, frozen=True, kw_only=True):
    """What the host can do."""

    served: tuple[Family, ...]
    missing: tuple[tuple[Family, str], ...] = ()
    """The others, and why."""
    hints: tuple[str, ...] = ()
    """What is likely to be wrong with the host, and is not ours to change."""


def host_families(sysctls: Sysctls, trouble: Callable[[Family], str]) -> HostFamilies:
    """Find out what can be served here; ``trouble`` says why the mode cannot serve a family, "" when it can.

    Blocking. Raises NoFamily, and what ``trouble`` raises.
    """
    troubles = {family: _without(sysctls, family) or trouble(family) for family in Family}
    served = [family for family, found in troubles.items() if not found]
    missing = [(family, found) for family, found in troubles.items() if found]
    if not served:
        raise NoFamily("; ".join(f"{family.label} cannot be served: {found}" for family, found in missing))
    hints = [
        f"{family.label} packets are not forwarded: Services will not work for pods; "
        f"sysctl -w {FORWARDING[family].replace('/', '.')}=1"
        for family in served
        if sysctls.read(FORWARDING[family]) == "0" and _is_used(family)
    ]
    return HostFamilies(served=tuple(served), missing=tuple(missing), hints=tuple(hints))


def _without(sysctls: Sysctls, family: Family) -> str:
    """Return why this host does without a family, whatever the mode."""
    if family is Family.V6:
        if not IPV6_INTERFACES.exists():
            return "this kernel has no IPv6 (a boot parameter ipv6.disable=1?)"
        if sysctls.read(DISABLED) == "1":
            return f"IPv6 is switched off (sysctl {DISABLED.replace('/', '.')}=1)"
    return ""


def _is_used(family: Family) -> bool:
    """Return whether an interface has a global address; IPv4 always counts."""
    if family is Family.V4:
        return True
    # address, index, prefix length, scope (00 is global), flags, name
    lines = [line.split() for line in IPV6_INTERFACES.read_text().splitlines()]
    return any(fields[3] == "00" for fields in lines)
