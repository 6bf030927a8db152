"""Tests of a directory that run inside a machine, each of them an item of the host's pytest all the same.

A machine runs a pytest of its own with all the tests that were selected for it; what that reports of a test is
reported here when its turn comes. A machine keeps one processor busy, as pure tests do: these come first, with
machines beside them on the other processors. Then come the machines' own tests, and then all others with nothing
beside them, since they look at rates and for what is left on the host. Inside, where `IN_THERE` is set, nothing of
this happens.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy.lab.machine.spec import Spec
from tests.machine_bed import IN_THERE, Inside, Kind

PROCESSORS = len(os.sched_getaffinity(0))


class Wanted(NamedTuple):
    """A machine that tests ask for."""

    kind: Kind
    spec: Spec


class MachineTests:
    """A plugin: tests below a directory of ``kinds`` run in machines of its kind, those below ``pure`` beside."""

    def __init__(
        self,
        kinds: Mapping[Path, Kind],
        pure: Collection[Path],
        start: Callable[[Kind, Spec, list[pytest.Item], pytest.Config], Inside] = Inside,
        processors: int = PROCESSORS,
    ) -> None:
        self._kinds = kinds
        self._pure = pure
        self._start = start
        self._processors = processors
        self._waiting: dict[Wanted, list[pytest.Item]] = {}
        self._started: dict[Wanted, Inside] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if wanted := self._wanted(item):
            item.add_marker(wanted.kind.marker)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put pure tests first and the machines' next, by machine; the timeouts of these are kept inside."""
        if os.environ.get(IN_THERE):
            return
        wanted = dict.fromkeys(filter(None, map(self._wanted, items)))
        order = [each for kind in self._kinds.values() for each in wanted if each.kind == kind]

        def turn(item: pytest.Item) -> tuple[int, int]:
            if wanted := self._wanted(item):
                return 1, order.index(wanted)
            return (0 if self._is_pure(item) else 2), 0

        items.sort(key=turn)
        for item in items:
            if self._wanted(item):
                item.add_marker(pytest.mark.timeout(0), append=False)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if wanted := self._wanted(item):
                self._waiting.setdefault(wanted, []).append(item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if os.environ.get(IN_THERE):
            return None
        if self._is_pure(item):
            self._use(self._processors - 1)
            return None
        wanted = self._wanted(item)
        if wanted is None:
            self._stop()
            return None
        self._use(self._processors)
        if wanted in self._waiting:
            self._stop()  # Whatever was started before has had its turn.
            self._start_one(wanted)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._started[wanted].reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        self._stop()
        return (yield)

    def _use(self, processors: int) -> None:
        """Start machines that wait, as far as these processors go; end those that have nothing left to do."""
        ended = [inside for inside in self._started.values() if inside.ended]
        for inside in ended:
            inside.stop()
        for wanted in list(self._waiting)[: max(0, processors - (len(self._started) - len(ended)))]:
            self._start_one(wanted)

    def _start_one(self, wanted: Wanted) -> None:
        items = self._waiting.pop(wanted)
        self._started[wanted] = self._start(wanted.kind, wanted.spec, items, items[0].config)

    def _stop(self) -> None:
        while self._started:
            self._started.popitem()[1].stop()

    def _wanted(self, item: pytest.Item) -> Wanted | None:
        """Return the machine that a test wants, or None for one that runs on the host."""
        for directory, kind in self._kinds.items():
            if item.path.is_relative_to(directory):
                return Wanted(kind, kind.spec_for(item))
        return None

    def _is_pure(self, item: pytest.Item) -> bool:
        return any(item.path.is_relative_to(directory) for directory in self._pure)
