"""Small Services that are treated as large ones: with limits of a few endpoints, histories reach every case."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from kubeproxy.dataplane.iptables import choose, render
from kubeproxy.dataplane.iptables import pages as iptables_pages
from kubeproxy.dataplane.nftables import pages
from kubeproxy.model import large, runs


@contextmanager
def treated_as_large(limit: int = 1) -> Iterator[None]:
    """Have every Service of so many endpoints be a large one, of runs, pages and chains of two; with 0 none is.

    With a limit of more than 1 it also stops being one: when it shrinks, and when its ports make it too large.
    """
    if not limit:
        yield
        return
    with (
        patch.object(large, "LARGE", limit),
        patch.object(large, "MANY", 3 * limit if limit > 1 else large.MANY),
        patch.object(runs, "SIZE", 2),
        patch.object(runs, "MOST", 3),
        patch.object(pages, "PAGE", 2),
        patch.object(choose, "LINEAR_MAX", 2),
        patch.object(choose, "FAN_OUT", 2),
        patch.object(render, "LINEAR_MAX", 2),
        patch.object(iptables_pages, "ROW", 2),
        patch.object(iptables_pages, "FAN_OUT", 2),
    ):
        yield


SIZES = (0, 1, 4)
"""Limits for `pytest.mark.parametrize`: as it is, all are large, and each becomes and stops being so."""
