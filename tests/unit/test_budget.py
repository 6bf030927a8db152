"""What ports share, and what remains of it."""

import weakref

import pytest

from kubeproxy.dataplane.budget import Budget
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit


def _port(service: str, port: str = "") -> ServicePortName:
    return ServicePortName("default", service, port, Protocol.TCP)


def test_ports_that_share_an_amount_have_it_together() -> None:
    budget = Budget(10, lambda name: name.key)
    assert budget.take(_port("web", "http"), 6)
    assert not budget.take(_port("web", "https"), 6)
    assert budget.take(_port("api"), 10)
    budget.give_back(_port("web", "http"))
    assert budget.take(_port("web", "https"), 10)


class _Service:
    """What ports may have in common."""


def test_nothing_is_kept_of_services_that_are_gone() -> None:
    services = {"web": _Service()}
    kept = weakref.ref(services["web"])
    budget = Budget(10, lambda name: services[name.name])
    names = [_port("web", "http"), _port("web", "https")]
    assert all(budget.take(name, 5) for name in names)
    for name in names:
        budget.give_back(name)
    services.clear()
    assert kept() is None
