"""Changes on their way from the API server to the kernel: how many wait, and how long each took. Pure.

Source: upstream's change trackers (pending counts) and its network programming latency: from the moment that the
controller wrote on a slice (last-change-trigger-time) to the end of the sync that brought it in. A slice that is
deleted says when it last changed, not when it was deleted, so what waits of its Service is not measured.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice
from kubeproxy.model.timestamps import seconds_of

MOST_STEPS = 1024
"""Moments at which something came that are told apart while nothing reaches the kernel."""
MOST_TIMES = 64
"""Times that are kept for one Service while nothing reaches the kernel."""

SliceChange = tuple[EndpointSlice | None, EndpointSlice | None]
"""A slice before and after."""


class _Step(msgspec.Struct):
    """What came at one moment (Clock.now)."""

    at: float
    services: int = 0
    slices: int = 0


class Changes:
    """Follows what informers deliver and syncs bring in; measures what happened after ``began`` (Unix time)."""

    def __init__(self, families: Iterable[Family], began: float) -> None:
        self._began = began
        self._steps: deque[_Step] = deque()
        self.pending_services = 0
        """How many changes of Services some family's kernel state lacks."""
        self.pending_slices = 0
        """How many changes of EndpointSlices some family's kernel state lacks."""
        self._synced = dict.fromkeys(families, float("-inf"))
        self._times: dict[Family, dict[Key, list[tuple[float, float]]]] = {family: {} for family in self._synced}
        """By the Service: when (Clock.now) it came and when (Unix time) it happened."""

    def services_changed(self, count: int, now: float) -> None:
        """Note that so many Services differ."""
        if count:
            self._step(now).services += count
            self.pending_services += count

    def slices_changed(self, changes: Iterable[SliceChange], now: float) -> int:
        """Note slices, and return how many differ; what is the same before and after is no change."""
        differing = [(before, after) for before, after in changes if before != after]
        if not differing:
            return 0
        self._step(now).slices += len(differing)
        self.pending_slices += len(differing)
        for before, after in differing:
            if after is not None:
                self._note_time(after, now)
            elif before is not None and (family := _family_of(before)) in self._times:
                self._times[family].pop((before.namespace, before.service), None)
        return len(differing)

    def synced(self, family: Family, started: float, wall: float) -> list[float]:
        """Note that all that came before ``started`` (Clock.now) is in; return how long it took, in seconds."""
        self._synced[family] = started
        oldest = min(self._synced.values())
        while self._steps and self._steps[0].at <= oldest:
            step = self._steps.popleft()
            self.pending_services -= step.services
            self.pending_slices -= step.slices
        took = []
        waiting = self._times[family]
        for key, times in list(waiting.items()):
            took += [max(wall - happened, 0.0) for came, happened in times if came <= started]
            waiting[key] = [each for each in times if each[0] > started]
            if not waiting[key]:
                del waiting[key]
        return took

    def _step(self, now: float) -> _Step:
        if self._steps and (self._steps[-1].at == now or len(self._steps) >= MOST_STEPS):
            self._steps[-1].at = now
        else:
            self._steps.append(_Step(now))
        return self._steps[-1]

    def _note_time(self, piece: EndpointSlice, now: float) -> None:
        family, happened = _family_of(piece), seconds_of(piece.last_change_trigger_time)
        if family not in self._times or happened is None or happened <= self._began:
            return
        times = self._times[family].setdefault((piece.namespace, piece.service), [])
        if len(times) < MOST_TIMES:
            times.append((now, happened))


def _family_of(piece: EndpointSlice) -> Family | None:
    return next((family for family in Family if family.label == piece.address_type), None)
