"""Which endpoints a Service port's traffic goes to: the one place where policy is decided.

At present: the ready ones. Traffic policies (a second list of this node's own endpoints), the fallback to
terminating endpoints and topology hints belong here, and nowhere else; backends only see the result.
"""

from collections.abc import Sequence

from kubeproxy.model.endpoints import PortEndpoint
from kubeproxy.model.objects import Record


class Categories(Record, frozen=True, kw_only=True):
    """The endpoints of one Service port by the kind of traffic that may use them."""

    cluster: tuple[PortEndpoint, ...] = ()
    """For traffic that may leave the node."""


def categorize(endpoints: Sequence[PortEndpoint]) -> Categories:
    """Choose among a port's merged endpoints, keeping their order."""
    return Categories(cluster=tuple([each for each in endpoints if each.endpoint.conditions.ready]))
