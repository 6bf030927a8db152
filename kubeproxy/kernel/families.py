"""Which IP families this host can be programmed in, asked once at the start.

As upstream, an agent serves both families wherever the host can, whatever the cluster uses: a family without
Services costs nothing, and a cluster may become dual-stack under a running agent.
"""

from pathlib import Path

from kubeproxy.kernel.exec import Exec, KernelError
from kubeproxy.kernel.iptables import Flavour, tables_trouble
from kubeproxy.kernel.ipvs_types import VirtualServers
from kubeproxy.kernel.nft_set_text import spoken
from kubeproxy.kernel.nft_sets import NftProgram
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


def host_families(
    execute: Exec, sysctls: Sysctls, flavour: Flavour | None, ipvs: VirtualServers | None = None
) -> HostFamilies:
    """Find out what can be served here; ``flavour`` None: by nftables; ``ipvs`` where that serves.

    Blocking. Raises NoFamily; KernelError and OSError when IPVS does not answer.
    """
    troubles = {family: _trouble(execute, sysctls, flavour, ipvs, family) for family in Family}
    served = [family for family, trouble in troubles.items() if not trouble]
    missing = [(family, trouble) for family, trouble in troubles.items() if trouble]
    if not served:
        raise NoFamily("; ".join(f"{family.label} cannot be served: {trouble}" for family, trouble in missing))
    hints = [
        f"{family.label} packets are not forwarded: Services will not work for pods; "
        f"sysctl -w {FORWARDING[family].replace('/', '.')}=1"
        for family in served
        if sysctls.read(FORWARDING[family]) == "0" and _is_used(family)
    ]
    return HostFamilies(served=tuple(served), missing=tuple(missing), hints=tuple(hints))


def _trouble(
    execute: Exec, sysctls: Sysctls, flavour: Flavour | None, ipvs: VirtualServers | None, family: Family
) -> str:
    if family is Family.V6:
        if not IPV6_INTERFACES.exists():
            return "this kernel has no IPv6 (a boot parameter ipv6.disable=1?)"
        if sysctls.read(DISABLED) == "1":
            return f"IPv6 is switched off (sysctl {DISABLED.replace('/', '.')}=1)"
    if ipvs is not None and not ipvs.serves(family):
        return f"this kernel's IPVS does not know {family.label} (CONFIG_IP_VS_IPV6)"
    if flavour is not None:
        return tables_trouble(execute, family, flavour)
    try:
        where = f"{spoken(family)} kube-proxy-probe"
        chain = "nat { type nat hook postrouting priority srcnat ; }"
        NftProgram(execute).commit(f"add table {where}\nadd chain {where} {chain}\n", check_only=True)
    except KernelError as refused:
        return str(refused)
    return ""


def _is_used(family: Family) -> bool:
    """Return whether an interface has a global address; IPv4 always counts."""
    if family is Family.V4:
        return True
    # address, index, prefix length, scope (00 is global), flags, name
    lines = [line.split() for line in IPV6_INTERFACES.read_text().splitlines()]
    return any(fields[3] == "00" for fields in lines)
