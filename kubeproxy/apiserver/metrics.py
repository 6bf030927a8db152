"""Every metric of the API server, declared once, with upstream's names and labels where upstream has the thing.

Sources: k8s.io/apiserver/pkg/endpoints/metrics, .../filters (authentication, authorization),
k8s.io/component-base/metrics/prometheus/{workqueue,clientgo}. What upstream does not have begins with
`kubeproxy_apiserver_`. One registry per server, made where it is put together. What a part counts for itself is
read when somebody asks (`Tally`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kubeproxy.apiserver.routes import Place
from kubeproxy.controllers.loop import ControlLoop
from kubeproxy.store.resources import Resource

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
"""Seconds, as upstream's apiserver_request_duration_seconds."""

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_READING = frozenset({"GET", "HEAD", "LIST"})


class Asked(NamedTuple):
    """What a request asks for, in the labels' words: no more of them than the server has paths."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    scope: str = ""


def asked_of_place(method: str, place: Place, *, watch: bool) -> Asked:
    """Return the labels of a request for objects."""
    verb = _verb(method)
    if verb in ("GET", "HEAD") and (watch or not place.name):
        verb = "WATCH" if watch else "LIST"
    elif verb == "DELETE" and not place.name:
        verb = "DELETECOLLECTION"
    scope = "resource" if place.name or verb == "POST" else "namespace" if place.namespace else "cluster"
    resource = place.kind.resource
    return Asked(verb, resource.group, resource.version, resource.plural, place.subresource, scope)


def asked_of_review(method: str, review: Resource) -> Asked:
    """Return the labels of an access review."""
    return Asked(_verb(method), review.group, review.version, review.plural, "", "resource")


def asked_of_path(method: str, path: str) -> Asked:
    """Return the labels of a request for no resource; ``path`` "" is one that is not served."""
    return Asked(_verb(method), subresource=path)


def _verb(method: str) -> str:
    return method if method in _METHODS else "other"


class Tally(Collector):
    """A counter whose numbers are kept by others, by the values of its labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._reads: dict[str, Callable[[], Mapping[str, int]]] = {}

    def follow(self, source: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Show what ``read`` returns, by the label's value, in place of what ``source`` said before."""
        self._reads[source] = read

    def collect(self) -> Iterable[Metric]:
        """Read everything. Called by the registry, in the thread of who asks."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for read in self._reads.values():
            for value, number in read().items():
                family.add_metric([value] if self._labels else [], number)
        yield family


class Metrics:
    """One API server's metrics. Set from the event loop only; `text` may be called from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = list(Asked._fields)
        self._requests = Counter(
            "apiserver_request", "Requests by what they ask for", [*labels, "code"], registry=self.registry
        )
        self._duration = Histogram(
            "apiserver_request_duration_seconds",
            "Time to the end of the answer, watches left out",
            labels,
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._long = self._gauge("apiserver_longrunning_requests", "Watches that are open", labels)
        inflight = self._gauge("apiserver_current_inflight_requests", "Being answered", ["request_kind"])
        self._reading, self._mutating = inflight.labels("readOnly"), inflight.labels("mutating")
        self.authentications = self._tally(
            "authentication_attempts", "Requests by whether a user is known", "result"
        )
        self.authorizations = self._tally("authorization_attempts", "Requests by what the roles say", "result")
        self.cut_off = self._tally(
            "apiserver_terminated_watchers", "Watches cut off because nobody read them", "resource"
        )
        self.turned_away = self._tally(
            "kubeproxy_apiserver_connections_refused", "Connections beyond a limit, closed at once", "server"
        )
        self.feed = self._tally(
            "kubeproxy_apiserver_feed_interruptions",
            "The store's watch that feeds all others ended: retries lose nothing, losses end watches",
            "outcome",
        )
        self.feed_revision = self._gauge(
            "kubeproxy_apiserver_feed_revision", "Published to watches up to here", []
        )
        self.store_errors = self._tally(
            "kubeproxy_apiserver_store_errors", "Requests that failed in the store: away, full, refused", "error"
        )
        self.leading = self._gauge("leader_election_master_status", "1 where this server leads", ["name"])
        self.depth = self._gauge("workqueue_depth", "Keys that wait for a controller", ["name"])
        self.retries = self._tally("workqueue_retries", "Reconciliations that failed and are tried again", "name")
        self._counted: dict[tuple[Asked, int], Counter] = {}
        self._timed: dict[Asked, Histogram] = {}

    def begin(self, asked: Asked) -> None:
        """A request has come."""
        self._running(asked).inc()

    def end(self, asked: Asked, code: int, seconds: float) -> None:
        """It is answered; code 0: the client left before that, which is how most watches end."""
        self._running(asked).dec()
        if asked.verb == "WATCH" and not code:
            code = 200
        counter = self._counted.get((asked, code))
        if counter is None:
            counter = self._counted[asked, code] = self._requests.labels(*asked, str(code))
        counter.inc()
        if asked.verb == "WATCH":
            return
        histogram = self._timed.get(asked)
        if histogram is None:
            histogram = self._timed[asked] = self._duration.labels(*asked)
        histogram.observe(seconds)

    def follow_loop(self, loop: ControlLoop) -> None:
        """Show how many keys wait for a control loop, and how often it failed."""
        self.depth.labels(loop.what).set_function(lambda: loop.depth)
        self.retries.follow(loop.what, lambda: {loop.what: loop.failures})

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _running(self, asked: Asked) -> Gauge:
        if asked.verb == "WATCH":
            return self._long.labels(*asked)
        return self._reading if asked.verb in _READING else self._mutating

    def _gauge(self, name: str, text: str, labels: Sequence[str]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _tally(self, name: str, text: str, label: str) -> Tally:
        tally = Tally(name, text, [label])
        self.registry.register(tally)
        return tally
