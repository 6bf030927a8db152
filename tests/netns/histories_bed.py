"""A history on the real kernel: its end is a fresh start's, and packets meet what `trace` says of them.

It is lived through in the lab's node, in both IP families; a fresh agent writes the last state into an empty
namespace, to compare. Then packets are drawn, to and around everything that the Services claim, and sent: who
answers, with which source address, or how the client is turned away, must be what `trace` predicts.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from kubeproxy.model.addresses import Family
from kubeproxy.model.settings import Settings
from tests.netns.drawn_packets import Question, ask, questions
from tests.property.agent_bed import Agent, Kernel
from tests.property.strategies_histories import Cluster, History
from tests.scenarios.lab import Lab

WORKERS = 48
PACKETS = 40
"""Of each family, after each history."""


class Renewable(Kernel, Protocol):
    """The kernel of a namespace, which can be begun anew."""

    def reset(self) -> None:
        """Leave nothing of ours, whatever there is."""
        ...

    def forget_flows(self) -> None:
        """Let no packet of one history be taken for a part of another's connection."""
        ...


K = TypeVar("K", bound=Renewable)


@contextlib.contextmanager
def clean(*kernels: Renewable) -> Iterator[None]:
    """Leave nothing behind for the next example, whatever went wrong in this one."""
    try:
        yield
    except BaseException:
        for kernel in kernels:
            kernel.reset()
        raise


@dataclass(frozen=True)
class Stage(Generic[K]):
    """Where histories of one mode happen, and how."""

    place: Lab
    crowd: ThreadPoolExecutor
    node: K
    """The lab's."""
    scratch: K
    """An empty one."""
    live: Callable[[History, K], tuple[Cluster, Agent]]
    fresh: Callable[[Cluster, Settings, K], Agent]
    draw: Callable[[Agent, Family, int], list[Question]]

    def compare(self, history: History, seed: int) -> None:
        """Live through a history and look at its end."""
        with clean(self.node, self.scratch):
            self.node.forget_flows()
            cluster, agent = self.live(history, self.node)
            written = self.fresh(cluster, agent.settings, self.scratch)
            assert agent.state() == written.state()
            written.cleanup()
            asked = [each for family in Family for each in self.draw(agent, family, seed)]
            wrong = [each for each in self.crowd.map(partial(ask, self.place), asked) if each]
            assert not wrong, "\n".join(wrong)
            agent.cleanup()


def some_packets(agent: Agent, family: Family, seed: int) -> list[Question]:
    """Draw packets of any client."""
    return list(questions(agent.world, agent.settings, family, seed, PACKETS))
