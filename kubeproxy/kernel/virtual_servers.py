"""The seam between the dataplane and IPVS: `ipvs.Ipvs` is the real one, `fake_ipvs.FakeVirtualServers` a model."""

from collections.abc import Sequence
from typing import Protocol

from kubeproxy.kernel.ipvs_overview import Overview
from kubeproxy.kernel.ipvs_types import Command, Counted, Found, Server, ServerKey, Timeouts
from kubeproxy.model.addresses import Family


class VirtualServers(Protocol):
    """The kernel's table of virtual servers in one network namespace. Blocking; for one thread.

    Every method but `available` raises KernelError when the kernel has no IPVS, refuses, or its answer was lost.
    """

    def available(self) -> bool:
        """Return whether this kernel has IPVS. Asking makes it load the module, where there is one."""
        ...

    def has_scheduler(self, name: str) -> bool:
        """Return whether the kernel has a scheduler: a virtual server is made with it, and deleted again."""
        ...

    def serves(self, family: Family) -> bool:
        """Return whether the kernel can have virtual servers of a family."""
        ...

    def servers(self, family: Family) -> dict[ServerKey, Server]:
        """Return the virtual servers of a family, marks too. Raises DumpInterrupted when they may be not all."""
        ...

    def count(self, family: Family) -> int | None:
        """Return how many virtual servers there are, in microseconds and raising nothing; None when nobody tells.

        The kernel does so for IPv4 alone. For any thread.
        """
        ...

    def overview(self, family: Family) -> Overview | None:
        """Return what is told of all virtual servers at once, by one short question and raising nothing.

        None when nobody tells. The kernel does so for IPv4 alone.
        """
        ...

    def counted_servers(self, family: Family) -> dict[ServerKey, Counted]:
        """Return the same with their statistics, which takes longer."""
        ...

    def destinations(self, key: ServerKey) -> list[Found]:
        """Return the destinations of a virtual server in the kernel's order; none when there is no such server."""
        ...

    def run(self, commands: Sequence[Command]) -> list[int]:
        """Carry out commands in order; return for each, taken `singly`, 0 or the kernel's error number.

        Not atomic: those after a refused one still run. ADD of what is there is EEXIST. Without the server: ESRCH;
        without the destination: ENOENT; with a scheduler that the kernel does not have: ENOENT.
        """
        ...

    def timeouts(self) -> Timeouts:
        """Return the timeouts in force."""
        ...

    def set_timeouts(self, *, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        """Set timeouts, in seconds; 0 leaves one as it is."""
        ...

    def flush(self) -> bool:
        """Delete every virtual server, whoever made it; return False when this kernel has no IPVS."""
        ...
