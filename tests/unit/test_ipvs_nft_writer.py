"""ipvs mode's rules in a table of nftables, with somebody who edits them at the worst moment."""

from collections.abc import Callable

import pytest

from kubeproxy.dataplane.ipvs.names import NFT_TABLE, set_name
from kubeproxy.dataplane.ipvs.nft_writer import NftRuleWriter
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.types import FlushChain
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import NodeState

pytestmark = pytest.mark.unit

NODE = NodeState(family=Family.V4, name="node1")


class Table(FakeTable):
    """A table that somebody edits after the next transaction, before anything else is asked."""

    edit: Callable[[], object] | None = None

    def handle(self) -> int:
        return self._edited(super().handle)

    def generation(self) -> int:
        return self._edited(super().generation)

    def _edited(self, ask: Callable[[], int]) -> int:
        edit, self.edit = self.edit, None
        if edit is not None:
            edit()
        return ask()


def test_an_edit_right_after_the_rules_were_written_is_found() -> None:
    table = Table(Family.V4, NFT_TABLE)
    sets = NftSets(table)
    for which, kind in KINDS.items():
        sets.create(set_name(Family.V4, which), kind)
    writer = NftRuleWriter(table, FakeSysctls({}))
    (written,) = writer.write(NODE)
    assert writer.drift() == ""
    assert written.standing == sum(len(table.rules(chain)) for chain in table.chains())
    table.edit = lambda: table.commit([FlushChain("ingress")])
    writer.write(NODE)
    for _ in range(2):
        assert "ingress was changed by somebody" in writer.drift()
    writer.write(NODE)
    assert writer.drift() == ""
