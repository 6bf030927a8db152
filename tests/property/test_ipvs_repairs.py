"""Whatever others do to virtual servers of ipvs mode that a count shows, and whenever: seen, and put right alone.

Each step of a history is followed by glances, which see nothing in what we have done, and by edits of somebody's.
"""

from collections.abc import Callable, Container

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.ipvs import overviews
from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from tests.property.agent_bed import Agent
from tests.property.changes_bed import heard
from tests.property.ipvs_bed import FakeIpvsKernel, in_ipvs_mode
from tests.property.runs import PATIENCE, STEPS, runs
from tests.property.strategies_histories import History, histories

pytestmark = [pytest.mark.unit, PATIENCE]

V4 = Family.V4
STRANGER = Destination("192.0.2.77", 1)

Edit = Callable[[FakeIpvsKernel, ServerKey], list[Command]]


def delete_server(kernel: FakeIpvsKernel, key: ServerKey) -> list[Command]:
    return [Command(Verb.DELETE_SERVER, Server(key))]


def reschedule(kernel: FakeIpvsKernel, key: ServerKey) -> list[Command]:
    return [Command(Verb.SET_SERVER, Server(key, "sed"))]


def add_destination(kernel: FakeIpvsKernel, key: ServerKey) -> list[Command]:
    return [Command(Verb.ADD_DESTINATION, Server(key), STRANGER)]


def delete_destination(kernel: FakeIpvsKernel, key: ServerKey) -> list[Command]:
    there = [each.destination for each in kernel.servers.destinations(key) if each.destination.weight]
    return [Command(Verb.DELETE_DESTINATION, Server(key), each) for each in there[:1]]


def remake_server(kernel: FakeIpvsKernel, key: ServerKey) -> list[Command]:
    return [*delete_server(kernel, key), Command(Verb.ADD_SERVER, Server(key))]


EDITS: tuple[Edit, ...] = (delete_server, reschedule, add_destination, delete_destination, remake_server)


def serving(kernel: FakeIpvsKernel, wanted: Container[ServerKey]) -> dict[ServerKey, object]:
    """Return the virtual servers that somebody wants, with the destinations that get new connections."""
    found = {key: server for key, server in kernel.servers.servers(V4).items() if key in wanted}
    destinations = {key: [each.destination for each in kernel.servers.destinations(key)] for key in found}
    return {key: (found[key], frozenset(each for each in destinations[key] if each.weight)) for key in found}


@runs()
@given(histories(steps=STEPS, crowds=True), st.data())
def test_glances_see_what_others_do_and_nothing_else(history: History, data: st.DataObject) -> None:
    kernel = FakeIpvsKernel()
    agent = Agent(kernel, in_ipvs_mode(history.settings))
    kernel.servers.no_hosts.clear()  # what the kernel refuses is in the books as draining until the next look
    kernel.busy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overviews, "REST_AFTER_OVERVIEW", 0)
        for _ in heard(history, agent):
            agent.settle()
            backend = agent.backends[V4]
            assert isinstance(backend, IpvsBackend)
            # Rules that a full sync has written are looked at once.
            assert backend.glance() in ("", "tables were changed")
            assert backend.observe() == ""
            wanted = backend._books.unions.virtuals
            before, keys = serving(kernel, wanted), sorted(wanted, key=repr)
            for key in data.draw(st.lists(st.sampled_from(keys), unique=True, max_size=4)) if keys else ():
                kernel.servers.run(data.draw(st.sampled_from(EDITS))(kernel, key))
            if serving(kernel, wanted) != before:
                assert backend.glance()
                assert backend.observe()
                assert backend.needs_full
                assert backend.repair(whole=False)
                assert not backend.needs_full
                assert serving(kernel, wanted) == before
            assert backend.glance() == ""
            assert backend.observe() == ""
            meddle_with_what_goes(kernel, backend, data)
            assert serving(kernel, wanted) == before
            assert backend.glance() == ""
            assert backend.observe() == ""
        kernel.calm()
        for _ in range(2):
            agent.observe()
            agent.settle()
    kernel.masquerade = 1 << agent.settings.masquerade_bit
    assert kernel.sets(V4) == fresh_like(agent).sets(V4)


def meddle_with_what_goes(kernel: FakeIpvsKernel, backend: IpvsBackend, data: st.DataObject) -> None:
    """Edit virtual servers that nobody wants any more, whose connections may end before the look; then repair."""
    going = sorted(backend._books.draining.unwanted, key=repr)
    for key in data.draw(st.lists(st.sampled_from(going), unique=True, max_size=4)) if going else ():
        kernel.servers.run(data.draw(st.sampled_from(EDITS))(kernel, key))
    if has_ended := data.draw(st.booleans()):
        kernel.calm()
    if backend.observe():
        assert backend.repair(whole=False)
    if has_ended:
        kernel.busy()


def fresh_like(agent: Agent) -> FakeIpvsKernel:
    """Return a kernel into which another agent has written the same World."""
    kernel = FakeIpvsKernel()
    kernel.servers.no_hosts.clear()
    kernel.masquerade = 1 << agent.settings.masquerade_bit
    Agent(kernel, agent.settings, agent.world).settle()
    return kernel
