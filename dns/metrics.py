"""What CoreDNS counts, under CoreDNS's names, counted in plain integers and told to Prometheus when it asks.

The answering loop cannot pay prometheus_client's locks for every query (they cost as much as the answer), nor
can a start wait for its import; so numbers gather here, and `exposition` makes metric families of them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from dns import VERSION
from dns.rrtypes import rcode_name, type_label

DURATION_BUCKETS = tuple(0.00025 * 2**step for step in range(16))
SIZE_BUCKETS = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


class Histogram:
    """Buckets, sum and count of one series."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, count up to it) as Prometheus wants them."""
        found, running = [], 0
        for bound, number in zip((*map(str, self.bounds), "+Inf"), self.buckets, strict=True):
            running += number
            found.append((bound, float(running)))
        return found


class Series:
    """One server block and transport: everything counted about its queries."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.requests: dict[int, int] = {}
        """By query type."""
        self.responses: dict[tuple[int, str], int] = {}
        """By response code and plugin."""
        self.duration = Histogram(DURATION_BUCKETS)
        self.request_size = Histogram(SIZE_BUCKETS)
        self.response_size = Histogram(SIZE_BUCKETS)

    def add(self, qtype: int, rcode: int, plugin: str, seconds: float, request: int, response: int) -> None:
        """Count one answered query."""
        self.requests[qtype] = self.requests.get(qtype, 0) + 1
        key = (rcode, plugin)
        self.responses[key] = self.responses.get(key, 0) + 1
        self.duration.add(seconds)
        self.request_size.add(request)
        self.response_size.add(response)


class Metrics:
    """All numbers of the process."""

    def __init__(self) -> None:
        self._series: dict[Labels, Series] = {}
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._help: dict[str, str] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], Callable[[], float]] = {}
        self.panics = 0
        """Queries that met a fault of ours; each got SERVFAIL and a line in the log."""

    def series(self, server: str, zone: str, proto: str, family: str) -> Series:
        """Return the counters of one server block and transport."""
        key = (server, zone, proto, family)
        if key not in self._series:
            self._series[key] = Series(
                {"server": server, "zone": zone, "view": "", "proto": proto, "family": family}
            )
        return self._series[key]

    def count(self, name: str, description: str, /, **labels: str) -> None:
        """Add one to a counter (its name without `_total`)."""
        self._help[name] = description
        key = (name, tuple(labels.items()))
        self._counters[key] = self._counters.get(key, 0) + 1

    def gauge(self, name: str, description: str, read: Callable[[], float], /, **labels: str) -> None:
        """Show a number that is read when Prometheus asks."""
        self._help[name] = description
        self._gauges[(name, tuple(labels.items()))] = read

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Collector(self))
        return generate_latest(registry)

    def collect(self) -> Iterator[Any]:
        """Yield metric families, as a prometheus_client collector does."""
        yield from _query_families(list(self._series.values()))
        yield from self._own_families()

    def _own_families(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        info = GaugeMetricFamily(
            "coredns_build_info",
            "A metric with a constant '1' value.",
            labels=["version", "revision", "goversion"],
        )
        info.add_metric([VERSION, "", "python"], 1)
        yield info
        panics = CounterMetricFamily("coredns_panics", "A metrics that counts the number of panics.")
        panics.add_metric([], self.panics)
        yield panics
        numbers = [(*key, value) for key, value in self._counters.items()]
        yield from _families(CounterMetricFamily, numbers, self._help)
        readings = [(*key, read()) for key, read in self._gauges.items()]
        yield from _families(GaugeMetricFamily, readings, self._help)


class _Collector:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Any]:
        return self._metrics.collect()


def _families(
    make: Any, numbers: list[tuple[str, tuple[tuple[str, str], ...], float]], texts: dict[str, str]
) -> Iterator[Any]:
    found: dict[str, Any] = {}
    for name, labels, value in numbers:
        if name not in found:
            found[name] = make(name, texts[name], labels=[label for label, _ in labels])
        found[name].add_metric([text for _, text in labels], value)
    yield from found.values()


def _query_families(series: list[Series]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    base = ["server", "zone", "view"]
    wide = [*base, "proto", "family"]
    requests = CounterMetricFamily(
        "coredns_dns_requests",
        "Counter of DNS requests made per zone, protocol and family.",
        labels=[*wide, "type"],
    )
    responses: dict[Labels, float] = {}
    durations: dict[Labels, list[Histogram]] = {}
    sizes: dict[str, dict[Labels, list[Histogram]]] = {"request": {}, "response": {}}
    for one in series:
        labels = tuple(one.labels[name] for name in base)
        kinds: dict[str, int] = {}
        for kind, number in one.requests.items():
            kinds[type_label(kind)] = kinds.get(type_label(kind), 0) + number
        for label, number in kinds.items():
            requests.add_metric([*(one.labels[name] for name in wide), label], number)
        for (rcode, plugin), number in one.responses.items():
            key = (*labels, rcode_name(rcode), plugin)
            responses[key] = responses.get(key, 0) + number
        durations.setdefault(labels, []).append(one.duration)
        by_proto = (*labels, one.labels["proto"])
        sizes["request"].setdefault(by_proto, []).append(one.request_size)
        sizes["response"].setdefault(by_proto, []).append(one.response_size)
    yield requests
    answered = CounterMetricFamily(
        "coredns_dns_responses", "Counter of response status codes.", labels=[*base, "rcode", "plugin"]
    )
    for key, value in responses.items():
        answered.add_metric(list(key), value)
    yield answered
    for name, text, found, labels_of in (
        ("duration_seconds", "Histogram of the time (in seconds) each request took per zone.", durations, base),
        ("size_bytes", "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
         sizes["request"], [*base, "proto"]),
    ):  # fmt: skip
        family = HistogramMetricFamily(f"coredns_dns_request_{name}", text, labels=labels_of)
        _add_merged(family, found)
        yield family
    family = HistogramMetricFamily(
        "coredns_dns_response_size_bytes", "Size of the returned response in bytes.", labels=[*base, "proto"]
    )
    _add_merged(family, sizes["response"])
    yield family


def _add_merged(family: Any, found: dict[Labels, list[Histogram]]) -> None:
    for labels, histograms in found.items():
        merged = Histogram(histograms[0].bounds)
        merged.buckets = [sum(column) for column in zip(*(one.buckets for one in histograms), strict=True)]
        merged.total = sum(one.total for one in histograms)
        family.add_metric(list(labels), merged.cumulative(), merged.total)
