"""Tests on Debian's own kernel under QEMU, which has IPVS and nftables both; see `tests.machine_tests`.

Everything in there takes ten times as long and more: what another kernel can show is not shown here.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_bed import QEMU
from tests.machine_tests import MachineTests
from tests.netns.takeover_bed import Machine
from tests.scenarios.lab import Lab
from tests.uml.conftest import lab  # noqa: F401  (a fixture)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(MachineTests(Path(__file__).parent, QEMU))


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:  # noqa: F811
    """Start an API server on the node, for an agent to follow."""
    with Machine(lab, tmp_path, warm=True) as started:
        yield started
