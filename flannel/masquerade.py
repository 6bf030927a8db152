"""Pods reach the world by their node's address, and the host lets the pod network through.

The rules are flannel's (chains FLANNEL-POSTRTG and FLANNEL-FWD), and kube-proxy's masquerade mark leaves
first, because kube-proxy's own POSTROUTING chain has to deal with it. `render_rules` is pure and says what each
chain holds; `MasqueradeRules` writes it, one atomic restore a table, and looks every few seconds whether it
still stands. Our chains are rewritten whole, so rules for a former Network or subnet need no deletion.

Whether rules stand is decided by comparing with what iptables printed right after we wrote them: its
spelling differs between versions and flavours, and a mirror of it here would rewrite for ever when it is wrong.
"""

import asyncio
import logging
from ipaddress import IPv4Network

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.kernel.exec import CommandFailed, KernelError
from kubeproxy.kernel.iptables import Iptables

log = logging.getLogger(__name__)

MASQUERADE_CHAIN = "FLANNEL-POSTRTG"
FORWARD_CHAIN = "FLANNEL-FWD"
KUBE_PROXY_MARK = "0x4000/0x4000"
MULTICAST = "224.0.0.0/4"
RESOURCE_PROBLEM = 4
"""iptables' exit status when somebody else held the xtables lock for too long, or the kernel was out of memory."""


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of ours, the built-in chain that jumps to it, and its rules without the ``-A NAME``."""

    table: str
    parent: str
    name: str
    comment: str
    rules: tuple[str, ...]

    def jump(self) -> str:
        """Return the rule in the parent."""
        return f"{self._comment()} -j {self.name}"

    def lines(self) -> list[str]:
        """Return the restore lines that make the chain hold exactly its rules."""
        return [f":{self.name} - [0:0]", *(self._line(rule) for rule in self.rules)]

    def _line(self, rule: str) -> str:
        match, _, target = rule.rpartition("-j ")
        return f"-A {self.name} {match}{self._comment()} -j {target}"

    def _comment(self) -> str:
        return f'-m comment --comment "{self.comment}"'


def masquerade_chain(network: IPv4Network, subnet: IPv4Network, *, random_fully: bool) -> Chain:
    """Return the chain for --ip-masq."""
    masquerade = "-j MASQUERADE --random-fully" if random_fully else "-j MASQUERADE"
    return Chain(
        table="nat",
        parent="POSTROUTING",
        name=MASQUERADE_CHAIN,
        comment="flanneld masq",
        rules=(
            f"-m mark --mark {KUBE_PROXY_MARK} -j RETURN",
            f"-s {subnet} -d {network} -j RETURN",
            f"-s {network} -d {subnet} -j RETURN",
            f"! -s {network} -d {subnet} -j RETURN",
            f"-s {network} ! -d {MULTICAST} {masquerade}",
            f"! -s {network} -d {network} {masquerade}",
        ),
    )


def forward_chain(network: IPv4Network) -> Chain:
    """Return the chain for --iptables-forward-rules."""
    return Chain(
        table="filter",
        parent="FORWARD",
        name=FORWARD_CHAIN,
        comment="flanneld forward",
        rules=(f"-s {network} -j ACCEPT", f"-d {network} -j ACCEPT"),
    )


class MasqueradeRules:
    """Keeps chains in place. `ensure` blocks; `keep` belongs to the event loop."""

    def __init__(self, iptables: Iptables, chains: tuple[Chain, ...]) -> None:
        self.failures = 0
        self._iptables = iptables
        self._chains = chains
        self._printed: dict[str, str] = {}
        self._complaint = ""

    def ensure(self) -> None:
        """Write every chain that does not stand as we wrote it. Raises KernelError."""
        for chain in self._chains:
            jumps = self._has_jump(chain)
            if jumps and self._printed.get(chain.name) == self._print(chain):
                continue
            if chain.name in self._printed:
                log.warning("chain %s was changed by somebody else; writing it again", chain.name)
            self._write(chain, jumps=jumps)

    async def keep(self, every_seconds: float, clock: Clock) -> None:
        """Check and repair until cancelled."""
        while True:
            await clock.sleep(every_seconds)
            try:
                await asyncio.to_thread(self.ensure)
            except KernelError as error:
                self.failures += 1
                if str(error) != self._complaint:
                    log.error("the masquerading rules cannot be checked: %s; trying again", error)
                    self._complaint = str(error)
            else:
                self._complaint = ""

    def _has_jump(self, chain: Chain) -> bool:
        comment = ("-m", "comment", "--comment", chain.comment)
        argv = ("-t", chain.table, "-C", chain.parent, *comment, "-j", chain.name)
        result = self._iptables.run(*argv, check=False)
        if result.status == RESOURCE_PROBLEM:
            # Whether the jump stands was not found out: to write it would make a second one.
            raise CommandFailed(argv, result.status, result.stderr)
        return result.status == 0

    def _print(self, chain: Chain) -> str:
        return self._iptables.run("-t", chain.table, "-S", chain.name, check=False).stdout

    def _write(self, chain: Chain, *, jumps: bool) -> None:
        lines = [f"*{chain.table}", *chain.lines()]
        if not jumps:
            lines.append(f"-A {chain.parent} {chain.jump()}")
        self._iptables.restore("\n".join([*lines, "COMMIT", ""]))
        self._printed[chain.name] = self._print(chain)
