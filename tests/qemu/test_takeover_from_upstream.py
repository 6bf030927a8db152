"""A busy node goes from kube-proxy's nftables mode to our ipvs mode: nobody notices.

On a kernel of one's own only; see `conftest`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.model.addresses import Family
from tests.netns.takeover_bed import NAMESPACES, VIP, Machine, kube_proxy_nftables, routes
from tests.netns.traffic import traffic
from tests.scenarios.lab import Lab
from tests.uml.ipvs_bed import local, on_node
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

RATE = 200


@pytest.mark.parametrize("has_iptables", [True, False], ids=["iptables", "no iptables"])
def test_ipvs_mode_takes_over_from_kube_proxys_nftables_mode(
    lab: Lab, machine: Machine, tmp_path: Path, has_iptables: bool, record_property: Callable[[str, object], None]
) -> None:
    def tables() -> list[str]:
        return on_node(lab, "nft", "list", "tables").splitlines()

    nothing = tmp_path / "no-programs"
    nothing.mkdir()
    kube_proxy_nftables(lab)
    assert any(line.endswith(" kube-proxy") for line in tables())
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        running.settle(1)
        took = machine.agent("ipvs", programs=None if has_iptables else str(nothing))
        until(
            lambda: not any(line.endswith(" kube-proxy") for line in tables()), "kube-proxy's tables are gone", 60
        )
        running.hold_more()
        running.settle(1)
        assert machine.told("leftovers") == []
        assert all(VIP[family] in local(lab) for family in Family)
        assert any(NFT_TABLE in line for line in tables()) is not has_iptables
    record_property("traffic", {**running.verdict(), **running.part()})
    record_property("seconds until taken over", round(took, 1))
