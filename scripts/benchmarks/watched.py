"""A backend that tells when an endpoint has come into the kernel."""

import time
from collections.abc import Callable, Collection, Iterator

import msgspec

from kubeproxy.dataplane.base import Applied, Backend, Change, Plan, Repairer
from kubeproxy.model.desired import Wanted
from kubeproxy.model.ident import Key

Arrival = Callable[[list[Change] | None, float], None]


class Watched:
    """Passes everything on (`dataplane.base.Backend`).

    After each `apply` or `repair`, in the worker's thread, ``arrived`` gets the changes that are in the kernel now
    (None: all that is wanted) and when, by time.perf_counter. Over no kernel a backend is not ``observable``: it
    would find that nothing stands; nor need it be while others are let write.
    """

    def __init__(self, inner: Backend, arrived: Arrival, *, observable: bool = True) -> None:
        self._inner = inner
        self._arrived = arrived
        self.observable = observable
        self._changes: list[Change] = []

    def diff(self, wanted: Wanted, scope: Collection[Key] | None) -> Plan | None:
        plan = self._inner.diff(wanted, scope)
        if plan is None or plan.full:
            return plan
        self._changes = []
        return msgspec.structs.replace(plan, changes=self._noted(plan.changes))

    def _noted(self, changes: Iterator[Change]) -> Iterator[Change]:
        for change in changes:
            self._changes.append(change)
            yield change

    def apply(self, plan: Plan) -> Applied:
        applied = self._inner.apply(plan)
        self._arrived(None if plan.full else self._changes, time.perf_counter())
        return applied

    @property
    def needs_full(self) -> bool:
        return self._inner.needs_full

    def observe(self) -> str:
        return self._inner.observe() if self.observable else ""

    def glance(self) -> str:
        return self._inner.glance() if self.observable else ""

    @property
    def repairer(self) -> Repairer | None:
        return self if self._inner.repairer else None

    def repair(self, *, whole: bool) -> bool:
        assert self._inner.repairer is not None
        is_done = self._inner.repairer.repair(whole=whole)
        if is_done:
            self._arrived(None, time.perf_counter())
        return is_done

    def cleanup(self) -> None:
        self._inner.cleanup()
