"""Tests that run inside a User-Mode Linux machine, each of them an item of the host's pytest all the same.

The first of them to be run boots the machine and starts pytest inside, with all that were selected; what it
reports of each test is then reported here. `KUBEPROXY_IN_UML` says that this already is that pytest.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.takeover_bed import Machine
from tests.scenarios.lab import Lab
from tests.uml.ipvs_bed import lab_with_others
from tests.uml_bed import Inside, key_of

HERE = Path(__file__).parent
INSIDE = bool(os.environ.get("KUBEPROXY_IN_UML"))
_running = pytest.StashKey[Inside]()


def _ours(items: list[pytest.Item]) -> list[pytest.Item]:
    return [item for item in items if item.path.is_relative_to(HERE)]


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.is_relative_to(HERE):
        item.add_marker(pytest.mark.uml)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of one machine next to each other; the timeouts are kept inside."""
    if INSIDE:
        return
    ours = _ours(items)
    ordered = iter(sorted(ours, key=lambda item: str(key_of(item))))
    items[:] = [next(ordered) if item in ours else item for item in items]
    for item in ours:
        item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if INSIDE or not item.path.is_relative_to(HERE):  # pytest asks this hook about the whole session's items
        return None
    session, key = item.session, key_of(item)
    inside = session.stash.get(_running, None)
    if inside is None or inside.key != key:
        _stop(session)
        selected = [each for each in _ours(session.items) if key_of(each) == key]
        inside = session.stash[_running] = Inside(key, selected, session.config)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in inside.reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Build the scenarios' lab, on a node with virtual servers of somebody else's."""
    with lab_with_others() as built:
        yield built


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    """Start an API server on the node, for an agent to follow."""
    with Machine(lab, tmp_path) as started:
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    _stop(session)
    return (yield)


def _stop(session: pytest.Session) -> None:
    if (inside := session.stash.get(_running, None)) is not None:
        del session.stash[_running]
        inside.stop()
