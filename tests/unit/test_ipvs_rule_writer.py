"""The fixed rules of ipvs mode are counted once for each time that somebody began to listen to others' changes."""

import pytest

from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.ipvs.openings import Openings
from kubeproxy.dataplane.ipvs.rule_writer import RuleWriter
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import NodeState

pytestmark = pytest.mark.unit

NODE = NodeState(family=Family.V4, name="node1", node_ip="192.168.56.11")


@pytest.fixture
def tables() -> FakeTables:
    sets = FakeSets(Family.V4)
    for which in Set:
        sets.create(set_name(Family.V4, which), KINDS[which])
    return FakeTables(sets)


def test_what_others_did_while_nobody_listened_is_found_once(tables: FakeTables) -> None:
    openings = Openings()
    writer = RuleWriter(tables, FakeSysctls(), None, openings)
    writer.write(NODE)
    openings.opened()
    for _ in range(3):
        assert writer.drift() == ""
    tables.tables["mangle"]["KUBE-IPVS-INGRESS"].pop()
    assert writer.drift() == writer.glance() == "", "that is told"
    openings.opened()
    found = len(tables.tables["mangle"]["KUBE-IPVS-INGRESS"])
    assert writer.drift().startswith("table mangle has ")
    writer.write(NODE)
    assert len(tables.tables["mangle"]["KUBE-IPVS-INGRESS"]) == found + 1
    assert writer.drift() == ""


def test_a_missing_jump_is_named(tables: FakeTables) -> None:
    openings = Openings()
    writer = RuleWriter(tables, FakeSysctls(), None, openings)
    writer.write(NODE)
    tables.tables["nat"]["OUTPUT"].clear()
    openings.opened()
    assert writer.drift() == "no rule of chain OUTPUT of table nat leads to KUBE-SERVICES any more"


def test_where_nobody_listens_nothing_is_counted(tables: FakeTables) -> None:
    writer = RuleWriter(tables, FakeSysctls(), None)
    writer.write(NODE)
    tables.tables["mangle"]["KUBE-IPVS-INGRESS"].pop()
    assert writer.drift() == ""
