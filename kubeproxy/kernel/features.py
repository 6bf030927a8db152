"""What this kernel can do beyond the usual, found out without changing anything. Blocking.

Each question makes a kernel that has the thing as a module load it.
"""

import contextlib
import errno
import logging
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager

from kubeproxy.kernel.exec import CommandMissing, Exec
from kubeproxy.kernel.ipset_messages import (
    ATTR_FAMILY,
    ATTR_PROTOCOL,
    ATTR_TYPENAME,
    CMD_TYPE,
    IPSET_PROTOCOL,
    SUBSYSTEM,
)
from kubeproxy.kernel.iptables import Flavour, tables_trouble
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import (
    AF,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    attribute,
    netfilter_head,
    text_attribute,
)
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.kernel.xtables import legacy_has_match, nft_has_match
from kubeproxy.model.addresses import Family

log = logging.getLogger(__name__)

_NO_SUCH_TYPE = 4098
"""Error of ipset: IPSET_ERR_FIND_TYPE."""
_RTM_NEWLINK = 16
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 1, 3, 18, 1
_IMPOSSIBLE = bytes((1, 0, 0, 0, 0, 0))
"""A group address, which no device may have."""


class Features:
    """See `modes.Machine`."""

    def __init__(self, execute: Exec, servers: VirtualServers) -> None:
        self._execute = execute
        self._servers = servers

    def load(self, modules: Sequence[str]) -> None:
        """See `load_modules`."""
        load_modules(self._execute, modules)

    def has_ipvs(self) -> bool:
        """See `VirtualServers.available`."""
        return self._servers.available()

    def has_scheduler(self, name: str) -> bool:
        """See `VirtualServers.has_scheduler`."""
        return self._servers.has_scheduler(name)

    def has_device_kind(self, kind: str) -> bool:
        """See the function."""
        return has_device_kind(kind)

    def has_set_type(self, name: str) -> bool:
        """See the function."""
        return has_set_type(name)

    def has_match(self, match: str) -> bool:
        """See the function."""
        return has_match(match)

    def iptables_trouble(self) -> str:
        """Ask each flavour for its nat table; nft's first, as legacy's is made by the question."""
        troubles = []
        for flavour in (Flavour.NFT, Flavour.LEGACY):
            trouble = tables_trouble(self._execute, Family.V4, flavour, ("nat",))
            if not trouble:
                return ""
            troubles.append(trouble)
        return "; ".join(troubles)

    def tables_trouble(self, family: Family, flavour: Flavour) -> str:
        """See the function."""
        return tables_trouble(self._execute, family, flavour)

    def serves(self, family: Family) -> bool:
        """See `VirtualServers.serves`."""
        return self._servers.serves(family)

    def nf_table(self, family: Family, name: str) -> AbstractContextManager[NfTable]:
        """Lend a table of nf_tables, which need not be there."""
        return contextlib.closing(KernelTable(family, name))


def load_modules(execute: Exec, modules: Sequence[str]) -> None:
    """Try to load modules; what cannot be loaded is passed over, and so is a machine without modprobe.

    Most load by themselves when they are asked for. Some do not, and in a container modprobe may be all there is.
    """
    try:
        result = execute.run(["modprobe", "-va", *modules], check=False)
    except CommandMissing:
        log.debug("modprobe is not installed: modules must load by themselves")
        return
    for line in (*result.stdout.splitlines(), *result.stderr.splitlines()):
        log.debug("modprobe: %s", line.strip())


def has_set_type(name: str) -> bool:
    """Return whether ipsets of a type, such as `hash:ip,port`, can be made. Raises NetlinkError, OSError."""
    body = netfilter_head(Family.V4) + attribute(ATTR_PROTOCOL, bytes([IPSET_PROTOCOL]))
    body += text_attribute(ATTR_TYPENAME, name) + attribute(ATTR_FAMILY, bytes([AF[Family.V4]]))
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            netlink.request(SUBSYSTEM | CMD_TYPE, 0, body, f"ipset type {name}")
    except NetlinkError as error:
        if error.code in (_NO_SUCH_TYPE, errno.EINVAL, errno.EEXIST):  # EINVAL: the kernel has no ipsets
            return False
        raise
    return True


def has_device_kind(kind: str) -> bool:
    """Return whether devices of a kind (`dummy`) can be made. Raises NetlinkError, OSError.

    A device is asked for with an address that none may have. A kernel that knows the kind says so.
    """
    link = attribute(_IFLA_LINKINFO | NLA_F_NESTED, text_attribute(_IFLA_INFO_KIND, kind))
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + text_attribute(_IFLA_IFNAME, "kube-none")
    body += attribute(_IFLA_ADDRESS, _IMPOSSIBLE) + link
    try:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"devices of kind {kind}")
    except NetlinkError as error:
        if error.code == errno.EADDRNOTAVAIL:
            return True
        if error.code == errno.EOPNOTSUPP:
            return False
        raise
    return True


def has_match(match: str) -> bool:
    """Return whether rules of IPv4, in either flavour, may have `-m MATCH`."""
    with contextlib.suppress(OSError):
        if legacy_has_match(Family.V4, match):
            return True
    return nft_has_match(Family.V4, match)
