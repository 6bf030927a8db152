"""The packet counters that fixed rules count in, where the kernel has nfacct: upstream's two, by upstream's names.

A rule that names a counter which is not there, or a kernel without the match, has the whole restore refused; so
each full sync asks first, and a rule without its counter is written without it.
"""

import logging
from typing import Protocol

from kubeproxy.dataplane.iptables import names
from kubeproxy.kernel.exec import KernelError

log = logging.getLogger(__name__)


class Nfacct(Protocol):
    """`kernel.nfacct.Nfacct`, or a fake."""

    def ensure(self, name: str) -> None:
        """Make a counter unless it is there. Raises KernelError, OSError."""
        ...


class Matches(Protocol):
    """`kernel.iptables.Iptables`, or a fake."""

    def has_match(self, match: str) -> bool:
        """Return whether the kernel takes rules with `-m MATCH`."""
        ...


def usable(tables: Matches, nfacct: Nfacct) -> frozenset[str]:
    """Make the counters; return the names of those that rules may refer to."""
    if not tables.has_match("nfacct"):
        return frozenset()
    found = set()
    for name in names.COUNTERS:
        try:
            nfacct.ensure(name)
            found.add(name)
        except (KernelError, OSError) as error:
            log.debug("no packets are counted in %s: %s", name, error)
    return frozenset(found)
