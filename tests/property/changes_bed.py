"""What the steps of a history change, for tests that ask whether a sync did that and no more."""

from collections.abc import Iterator, Mapping

import msgspec

from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, desired
from kubeproxy.model.ident import ServicePortName
from tests.property.agent_bed import Agent
from tests.property.strategies_histories import Batch, Cluster, History

States = Mapping[ServicePortName, ServiceState]


class Heard:
    """A step that an agent has heard of and not brought in."""

    def __init__(self, agent: Agent, before: Mapping[Family, States], *, concerns_all: bool) -> None:
        self._agent = agent
        self._before = before
        self.concerns_all = concerns_all
        """Whether the Node or the ServiceCIDRs may have changed, which every Service depends on."""

    def changed(self, family: Family) -> dict[ServicePortName, list[ServiceState]]:
        """Return the ports that it changes, each with what it was and what it is, as far as it is."""
        before, after = self._before[family], desired(self._agent.world, self._agent.settings, family)
        return {
            name: [states[name] for states in (before, after) if name in states]
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        }


def heard(history: History, agent: Agent) -> Iterator[Heard]:
    """Have an agent that is in sync hear of one step after another; the caller syncs."""
    cluster = Cluster()
    agent.settle()
    for step in history.steps:
        agent.sync()
        before = {family: desired(agent.world, agent.settings, family) for family in Family}
        batches = [event.happen(cluster) for event in step.events]
        for batch in batches:
            agent.hear(batch)
        yield Heard(agent, before, concerns_all=any(each.node is not None or each.cidrs for each in batches))


def hear_there_and_back(agent: Agent) -> None:
    """Have an agent hear of a change to every Service, and then of the opposite."""
    for key, service in list(agent.world.services.items()):
        other = msgspec.structs.replace(service, affinity_seconds=1, session_affinity=True)
        for each in (other, service):
            agent.hear(Batch(services={key: each}))
