"""trace explains every row of the scenario table: its verdict is what packets are expected to do there."""

import msgspec
import pytest

from kubeproxy.dataplane.iptables.locate import IptablesLocator
from kubeproxy.dataplane.ipvs.locate import IpvsLocator
from kubeproxy.dataplane.locate import Locator
from kubeproxy.dataplane.nftables.locate import NftablesLocator
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.trace.answer import Answer
from kubeproxy.trace.explainer import Condition, Explainer
from tests.scenarios.addresses import OWN
from tests.scenarios.asking import disagreement, question_of
from tests.scenarios.history import questions
from tests.scenarios.rows import ROWS

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("mode", "locator", "ipvs"),
    [
        ("iptables", IptablesLocator(), None),
        ("ipvs", IpvsLocator(IpvsSettings()), IpvsSettings()),
        ("nftables", NftablesLocator(), None),
    ],
    ids=["iptables", "ipvs", "nftables"],
)
def test_the_verdict_is_what_the_row_expects(mode: str, locator: Locator, ipvs: IpvsSettings | None) -> None:
    wrong, asked, rows = [], 0, set()
    for each in questions(ROWS, mode):
        explainer = Explainer(
            each.world,
            msgspec.structs.replace(each.settings, ipvs=ipvs),
            mode=mode,
            flavour="nft",
            locator=locator,
            families=tuple(Family),
            condition=lambda _: Condition(),
            local_addresses=lambda family: sorted(OWN[family]),
        )
        answer = explainer.answer(question_of(each.case))
        assert isinstance(answer, Answer)
        assert answer.steps, each.case
        asked += 1
        rows.add(each.case.row)
        if told := disagreement(each.case, answer):
            wrong.append(told)
    assert rows == {row.name for row in ROWS}
    assert not wrong, f"{len(wrong)} of {asked}:\n" + "\n".join(wrong)
