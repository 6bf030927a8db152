"""What is measured: a mode of the proxy on the kernel of the network namespace that this process is in."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import cluster
from edits import Edit
from figures import Size
from namespace import elsewhere

from kubeproxy.dataplane.base import Backend
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.modes import Parts

FAMILY = Family.V4
NO_KERNEL = "an in-memory no-op kernel"


class Floor(NamedTuple):
    """Something to compare with."""

    name: str
    run: Callable[[], float]
    """Return the seconds that it took, once."""
    rounds: int = 100
    """How often it may be run at most: some take minutes."""
    apart: bool = False
    """Whether it wants an empty namespace, where our state stands now."""

    def times(self, rounds: int) -> list[float]:
        """Run it so often, or as often as it may be."""
        rounds = min(rounds, self.rounds)

        def work() -> list[float]:
            return [self.run() for _ in range(rounds)]

        return elsewhere(work) if self.apart else work()


class Subject(Protocol):
    """One mode. Every method speaks to the namespace that the calling thread is in at that moment."""

    name: str
    ipvs: IpvsSettings | None

    @property
    def parts(self) -> Parts:
        """What an agent in this mode is made of; its backend and its hints know each other."""
        ...

    def backend(self) -> Backend:
        """Return a new backend over the real kernel, that what it writes may stand beside `load_floors`."""
        ...

    def null_backend(self) -> Backend:
        """Return a new backend over a kernel that does nothing."""
        ...

    def load_floors(self, size: Size) -> Iterator[Floor]:
        """Yield what a full load stands beside; asked right after the load, and run in an empty namespace."""
        ...

    def read_floors(self, size: Size) -> Iterator[Floor]:
        """Yield what an adoption stands beside; run where everything stands."""
        ...

    def change_floors(self, size: Size, *, added: bool) -> Iterator[Floor]:
        """Yield what one change stands beside, of an endpoint or the addition of a Service.

        Asked and run where everything stands, right after such a change.
        """
        ...

    def edits(self, size: Size) -> Iterator[Edit]:
        """Yield what others may do to a whole cluster of this size."""
        ...

    def held(self) -> object:
        """Return all of our state that the kernel holds, to be compared."""
        ...


def settings(ipvs: IpvsSettings | None = None) -> Settings:
    """Return the node's settings in every benchmark."""
    return Settings(node_name=cluster.NODE_NAME, cluster_cidrs=(cluster.CLUSTER_CIDR,), ipvs=ipvs)


def load(backend: Backend, world: World, of: Settings) -> None:
    """Bring a whole World in."""
    plan = backend.diff(wanted(world, of, FAMILY), None)
    assert plan is not None
    backend.apply(plan)
