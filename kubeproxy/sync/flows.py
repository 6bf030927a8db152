"""After a sync: the UDP flows that are stale under the new rules are ended, so that their next packets obey them.

What is stale is the model's business (`udp_services.py`); this is how it gets done: one reading of the kernel's
table for all that is due, one batch of deletions, and what to make of failures. None of them fails a sync: the
flows stay due, and are looked at again after the next sync or after a while.
"""

import logging
import threading
from collections.abc import Callable, Collection

from kubeproxy.clock import Clock
from kubeproxy.kernel.conntrack import Conntrack
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Record
from kubeproxy.model.settings import Settings
from kubeproxy.model.udp_services import UdpServices
from kubeproxy.model.world import World

log = logging.getLogger(__name__)

READINGS = 3
"""How often the table is read at once when it changes under the reading."""


class FlowStatus(Record, frozen=True, kw_only=True):
    """How the reconciliation of UDP flows stands; counts are of this process's life."""

    runs: int = 0
    """How often the kernel's table was looked at."""
    deleted: int = 0
    """Entries deleted in all."""
    failures: int = 0
    duration: float = 0.0
    """Seconds that the last look took."""
    error: str = ""
    """Why stale flows may be there still; they are looked for again."""


class FlowReconciler:
    """Ends one family's stale UDP flows. One thread at a time does; others wait for it."""

    def __init__(
        self,
        conntrack: Conntrack,
        local_addresses: Callable[[], Collection[str]],
        settings: Settings,
        family: Family,
        clock: Clock,
    ) -> None:
        self._conntrack = conntrack
        self._local_addresses = local_addresses
        self._services = UdpServices(settings, family)
        self._family = family
        self._clock = clock
        # A repair looks at flows too: it must not see half of what a sync takes in, nor forget what that made due.
        self._lock = threading.Lock()
        self.status = FlowStatus()

    def has_work(self, world: World, scope: Collection[Key] | None) -> bool:
        """Return whether `reconcile` would do anything: cheap, for any thread while that does not run.

        `look_at_all` may run meanwhile: what it has not done yet counts.
        """
        return scope is None or bool(self.status.error) or self._services.concerns(world, scope)

    def reconcile(
        self, world: World, node: NodeState, scope: Collection[Key] | None, left_out: Collection[ServicePortName]
    ) -> FlowStatus:
        """End what is stale now that the Services in ``scope`` (None: all) are in the kernel's rules.

        Ports that are ``left_out`` are not in the rules. Returns at once when no flow can have become stale.
        Raises nothing.
        """
        return self._look(lambda: self._services.update(world, node, scope, left_out))

    def look_at_all(self) -> FlowStatus:
        """End the stale flows of all Services that are known, since rules were missing for a while. The same."""
        return self._look(self._services.distrust)

    def _look(self, prepare: Callable[[], None]) -> FlowStatus:
        with self._lock:
            try:
                prepare()
                match = self._services.due()
                if match is not None:
                    self._run(match)
            except Exception as bug:
                # A mistake of ours must not undo what the sync has done for everybody.
                log.exception("looking for stale UDP flows ran into an error of kubeproxy's own")
                self._ended(0, f"kubeproxy's own error: {bug!r}", 0.0)
            return self.status

    def _run(self, match: FlowMatch) -> None:
        started = self._clock.now()
        deleted, error = 0, ""
        try:
            local = self._local_addresses()
            for _ in range(READINGS):
                more, error = self._round(match, local)
                deleted += more
                if not error:
                    self._services.done()
                    break
        except (KernelError, OSError) as refused:
            error = str(refused)
        self._ended(deleted, error, self._clock.now() - started)

    def _round(self, match: FlowMatch, local: Collection[str]) -> tuple[int, str]:
        """Read the table once; return how many entries were deleted, and why some may have been missed."""
        stale: list[Flow] = []
        missed = ""
        try:
            for flow in self._conntrack.flows(match):
                if self._services.is_stale(flow, local):
                    stale.append(flow)
        except DumpInterrupted as error:
            missed = str(error)
        return self._conntrack.delete(stale) if stale else 0, missed

    def _ended(self, deleted: int, error: str, duration: float) -> None:
        status = self.status
        if error and error != status.error:
            log.warning(
                "stale UDP flows of %s may remain, and are looked for again: %s", self._family.label, error
            )
        elif status.error and not error:
            log.info("no stale UDP flows of %s remain", self._family.label)
        if deleted:
            log.debug("ended %d stale UDP flows of %s in %.3f s", deleted, self._family.label, duration)
        self.status = FlowStatus(
            runs=status.runs + 1,
            deleted=status.deleted + deleted,
            failures=status.failures + bool(error),
            duration=duration,
            error=error,
        )
