"""Tests of a directory that run inside a machine, each of them an item of the host's pytest all the same.

The first of them to be run boots the machine and starts pytest inside, with all that were selected; what it
reports of each test is then reported here. Inside, where `IN_THERE` is set, nothing of this happens.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_bed import IN_THERE, Inside, Kind


class MachineTests:
    """A plugin: the tests below ``directory`` are run in a machine of ``kind``."""

    def __init__(self, directory: Path, kind: Kind) -> None:
        self._directory = directory
        self._kind = kind
        self._running: Inside | None = None

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if self._is_ours(item):
            item.add_marker(self._kind.marker)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the tests of one machine next to each other; the timeouts are kept inside."""
        if os.environ.get(IN_THERE):
            return
        ours = self._ours(items)
        ordered = iter(sorted(ours, key=lambda item: str(self._kind.spec_for(item))))
        items[:] = [next(ordered) if item in ours else item for item in items]
        for item in ours:
            item.add_marker(pytest.mark.timeout(0), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if os.environ.get(IN_THERE) or not self._is_ours(item):
            return None
        inside = self._machine_for(item)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in inside.reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        self._stop()
        return (yield)

    def _machine_for(self, item: pytest.Item) -> Inside:
        spec = self._kind.spec_for(item)
        if self._running is None or self._running.spec != spec:
            self._stop()
            selected = [each for each in self._ours(item.session.items) if self._kind.spec_for(each) == spec]
            self._running = Inside(self._kind, spec, selected, item.config)
        return self._running

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _is_ours(self, item: pytest.Item) -> bool:
        return item.path.is_relative_to(self._directory)

    def _ours(self, items: list[pytest.Item]) -> list[pytest.Item]:
        return [item for item in items if self._is_ours(item)]
