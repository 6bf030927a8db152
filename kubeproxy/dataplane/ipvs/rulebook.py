"""What writes the fixed rules: by iptables' programs (`rule_writer`), or by nftables (`nft_writer`). Pure."""

from typing import Protocol

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.model.node import NodeState


class Rulebook(Protocol):
    """One family's rules. Blocking; methods raise KernelError and OSError."""

    def write(self, node: NodeState) -> tuple[RuleCount, ...]:
        """Write all rules, and tell how many there are in each table."""
        ...

    def drift(self) -> str:
        """Return what somebody did to the rules, "" when they stand. Cheap."""
        ...

    def glance(self) -> str:
        """Return what others may have changed, "" when nothing shows or others tell of it; raises nothing."""
        ...

    def remove(self) -> list[str]:
        """Remove the rules; return complaints about what is left."""
        ...
