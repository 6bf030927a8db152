"""Tests inside a User-Mode Linux machine, whose kernel has IPVS and no nftables; see `tests.machine_tests`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.takeover_bed import Machine
from tests.scenarios.lab import Lab
from tests.uml.ipvs_bed import lab_with_others


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
