"""The fixed rules of ipvs mode brought into a table of nftables, watched, and removed. Blocking."""

import errno

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.dataplane.ipvs.nft_rules import CHAINS, NftRules
from kubeproxy.dataplane.ipvs.rule_writer import TCP_BE_LIBERAL
from kubeproxy.kernel.exec import CommandFailed
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER
from kubeproxy.kernel.nft_program import NftProgram
from kubeproxy.kernel.nft_set_text import spoken
from kubeproxy.kernel.nftrace_messages import MSG_GET_RULE, decode_rule, encode_rules
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.kernel.xtables import has_nft, nft_generation
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import NodeState


class NftRuleWriter:
    """See `Rulebook`."""

    def __init__(self, nft: NftProgram, family: Family, sysctls: Sysctls) -> None:
        self._nft = nft
        self._family = family
        self._sysctls = sysctls
        self._intact: bytes | None = None
        """The kernel's last transaction when the rules were found to stand."""
        self._written: dict[str, tuple[int, ...]] = {}
        """The numbers of each chain's rules; one that is replaced gets another."""

    def write(self, node: NodeState) -> tuple[RuleCount, ...]:
        """See `Rulebook.write`: one transaction."""
        rules = NftRules(node, drop_invalid=self._sysctls.read(TCP_BE_LIBERAL) in ("", "0"))
        self._nft.commit(rules.text())
        self._intact = nft_generation()
        self._written = {chain: self._rules_of(chain) for chain in CHAINS}
        count = sum(1 for _ in rules.rules())
        return (RuleCount(table=NFT_TABLE, standing=count, written=count),)

    def drift(self) -> str:
        """See `Rulebook.drift`: microseconds while nobody changes any rules, else the kernel lists ours."""
        generation = nft_generation()
        if generation == self._intact:
            return ""
        for chain, written in self._written.items():
            if self._rules_of(chain) != written:
                return f"nftables chain {spoken(self._family)} {NFT_TABLE} {chain} was changed by somebody"
        self._intact = generation
        return ""

    def remove(self) -> list[str]:
        """See `Rulebook.remove`; the table goes with its last set."""
        self._intact, self._written = None, {}
        if not has_nft():
            return []
        complaints = []
        where = spoken(self._family), NFT_TABLE
        for chain in CHAINS:
            named = " ".join((*where, chain))
            try:
                self._nft.commit(f"flush chain {named}\ndelete chain {named}\n")
            except CommandFailed as error:
                if "No such file or directory" not in error.stderr:
                    complaints.append(f"nftables chain {named} stays: {error}")
        return complaints

    def _rules_of(self, chain: str) -> tuple[int, ...]:
        """Return the numbers of a chain's rules."""
        body = encode_rules(self._family, NFT_TABLE, chain)
        handles = []
        try:
            with NetlinkSocket(NETLINK_NETFILTER) as netlink:
                for answer in netlink.dump(MSG_GET_RULE, body, "nf_tables rules"):
                    *found, handle = decode_rule(answer)
                    if found == [NFT_TABLE, chain]:  # not every kernel leaves out the others
                        handles.append(handle)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
        return tuple(handles)
