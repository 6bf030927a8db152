"""A model of connection tracking for tests, ours and our users', with knobs for what can go wrong."""

import itertools
from collections.abc import Callable, Collection, Iterator

import msgspec

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.model.flows import Flow, FlowMatch


class FakeConntrack:
    """One family's table, with the kernel's rules: an entry is deleted by what it is, not by how it looks."""

    def __init__(self, *flows: Flow) -> None:
        self._numbers = itertools.count(1)
        self.entries: dict[bytes, Flow] = {}
        self.questions: list[FlowMatch] = []
        """What was asked for, in order."""
        self.failures: list[KernelError] = []
        """Raised by the next calls, one each."""
        self.interruptions: list[int] = []
        """The next answers end after so many flows."""
        self.before_delete: Callable[[], None] = lambda: None
        """Somebody else's doing between a dump and the deletion."""
        for flow in flows:
            self.track(flow)

    def track(self, flow: Flow) -> Flow:
        """Add an entry as the first packet of a flow does; one of the same tuple must have ended."""
        entry = msgspec.structs.replace(flow, handle=next(self._numbers).to_bytes(4, "big"))
        assert all(_tuple(entry) != _tuple(other) for other in self.entries.values()), f"{flow}: is tracked"
        self.entries[entry.handle] = entry
        return entry

    @property
    def tracked(self) -> set[str]:
        """What there is, as lines of a report."""
        return {str(flow) for flow in self.entries.values()}

    def flows(self, match: FlowMatch) -> Iterator[Flow]:
        """See `Conntrack.flows`."""
        self._fail()
        self.questions.append(match)
        left = self.interruptions.pop(0) if self.interruptions else None
        for flow in list(self.entries.values()):
            if match.admits(flow):
                if left == 0:
                    raise DumpInterrupted("conntrack: changed while it was read")
                left = None if left is None else left - 1
                yield flow
        if left is not None:
            raise DumpInterrupted("conntrack: changed while it was read")

    def delete(self, flows: Collection[Flow]) -> int:
        """See `Conntrack.delete`."""
        self.before_delete()
        self._fail()
        return sum(self.entries.pop(flow.handle, None) is not None for flow in flows)

    def size(self) -> tuple[int, int]:
        """See `Conntrack.size`."""
        self._fail()
        return len(self.entries), 262144

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


def _tuple(flow: Flow) -> tuple[object, ...]:
    return flow.protocol, flow.source, flow.source_port, flow.destination, flow.port, flow.zone
