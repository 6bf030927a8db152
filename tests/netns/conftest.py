"""Where kernel tests happen: a network namespace, or the scenarios' lab of several."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.netns.histories_bed import WORKERS
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.netns.takeover_bed import Machine
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab


@pytest.fixture
def alone() -> Iterator[LoneNamespace]:
    """Make a namespace in which there is nothing."""
    with lone_namespace() as made:
        yield made


@pytest.fixture(scope="module")
def empty() -> Iterator[LoneNamespace]:
    """Make one for all tests of a module."""
    with lone_namespace() as made:
        yield made


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Build the scenarios' lab."""
    with build_lab() as built:
        yield built


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    """Build it for all tests of a module."""
    with build_lab() as built:
        yield built


@pytest.fixture(scope="module")
def crowd() -> Iterator[ThreadPoolExecutor]:
    """Start threads that ask questions of a history side by side."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield pool


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    """Start an API server on the lab's node, for an agent to follow."""
    with Machine(lab, tmp_path) as started:
        yield started
