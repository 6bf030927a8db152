"""Affinity beyond what the scenario table asks: many clients, and an agent that is started anew."""

from collections.abc import Iterator

import pytest

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns import affinity_bed
from tests.netns.affinity_bed import CLIENTS, lab_with_clients
from tests.netns.iptables_bed import BE1, BE2, BE3, NODE_PORT, VIP, backend_in, programmed, sync
from tests.scenarios.addresses import HOSTS
from tests.scenarios.lab import Lab

pytestmark = pytest.mark.netns


@pytest.fixture
def lab() -> Iterator[Lab]:
    """One for each flavour: a port that a client used under the other is still tracked, and passes no rule."""
    with lab_with_clients() as built:
        yield built


def answers(lab: Lab) -> list[str]:
    return affinity_bed.answers(lab, CLIENTS, 2.0)


@pytest.mark.parametrize("flavour", list(Flavour))
def test_hundreds_of_clients_stay_with_their_endpoints(lab: Lab, flavour: Flavour) -> None:
    objects = (
        service("web", VIP, node_port=NODE_PORT, session_affinity=True),
        endpoint_slice("web", "80", [BE1, BE2, BE3]),
    )
    with programmed(lab, objects, flavour):
        first = answers(lab)
        assert set(first) == {HOSTS[name].v4 for name in ("be1", "be2", "be3")}
        assert answers(lab) == first
        sync(lab, backend_in(flavour), world(*objects))
        assert answers(lab) == first
    names = lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout)
    assert names == ""
