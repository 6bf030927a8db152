"""Small Services that are treated as large ones: with limits of a few endpoints, histories reach every case."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from kubeproxy.dataplane.iptables import choose, render
from kubeproxy.dataplane.nftables import pages
from kubeproxy.model import large, runs


@contextmanager
def treated_as_large(everything: bool = True) -> Iterator[None]:
    """Have every Service with an endpoint be a large one, of runs, pages and chains of two."""
    if not everything:
        yield
        return
    with (
        patch.object(large, "LARGE", 1),
        patch.object(runs, "SIZE", 2),
        patch.object(runs, "MOST", 3),
        patch.object(pages, "PAGE", 2),
        patch.object(choose, "LINEAR_MAX", 2),
        patch.object(choose, "FAN_OUT", 2),
        patch.object(render, "LINEAR_MAX", 2),
    ):
        yield


SIZES = (False, True)
"""For `pytest.mark.parametrize`: as it is, and all treated as large."""
