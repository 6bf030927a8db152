"""Tests on a kernel that has IPVS and nftables both: Debian's own under QEMU; see `tests.machine_tests`.

Everything in there takes ten times as long and more: what another kernel can show is not shown here. With a kernel
of one's own, in User-Mode Linux (`UML_KERNEL`), there is more.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_bed import UML_KERNEL
from tests.netns.takeover_bed import Machine
from tests.scenarios.lab import Lab
from tests.uml.conftest import lab  # noqa: F401  (a fixture)

collect_ignore = [] if UML_KERNEL in os.environ else ["test_scenarios.py", "test_takeover_from_upstream.py"]


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:  # noqa: F811
    """Start an API server on the node, for an agent to follow."""
    with Machine(lab, tmp_path, warm=True) as started:
        yield started
