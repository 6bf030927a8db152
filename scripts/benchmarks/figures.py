"""What a benchmark reports: sizes, and samples that become rows. Pure; nothing of kubeproxy is imported here.

A row stands beside a floor that was measured in the same run, because these machines are noisy: the ratio is the
figure to keep. A measurement with several floors has a row for each.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Size(msgspec.Struct, frozen=True, order=True):
    """How large a cluster is: Services, and endpoints of each."""

    services: int
    endpoints: int = 3

    def __str__(self) -> str:
        """Write it as `parse_size` reads it."""
        return str(self.services) if self.endpoints == 3 else f"{self.services}x{self.endpoints}"


def parse_size(text: str) -> Size:
    """Parse `1000` (Services of 3 endpoints) or `1x10000`. Raises ValueError."""
    numbers = [int(part) for part in text.split("x")]
    if len(numbers) > 2 or min(numbers) < 1:
        raise ValueError(f"{text!r} is no size; write SERVICES or SERVICESxENDPOINTS")
    return Size(*numbers)


def parse_sizes(text: str) -> list[Size]:
    """Parse sizes with commas between them. Raises ValueError."""
    return [parse_size(part) for part in text.split(",")]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the tables, and one object of the JSON; null where there is no such figure."""

    what: str
    mode: str
    """Of the proxy; for other programs what they run on, or ""."""
    services: int
    endpoints: int = 3
    """Of each Service."""
    samples: int = 1
    p50_ms: float | None = None
    p99_ms: float | None = None
    seconds: float | None = None
    """The median of the samples."""
    floor: str = ""
    """What the floor is."""
    floor_seconds: float | None = None
    ratio: float | None = None
    """``seconds`` to ``floor_seconds``."""
    cpu_seconds: float | None = None
    """Of one sample: this process, the programs that it started, and the kernel on behalf of both."""
    rss_mib: float | None = None
    """The most memory that the process had had in use by then."""


Floors = Mapping[str, Sequence[float]]
"""Seconds of each sample, by what was measured."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all do not exceed (nearest rank)."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def rows(
    what: str,
    mode: str,
    size: Size,
    samples: Sequence[float],
    floors: Floors | None = None,
    *,
    cpu_seconds: float | None = None,
    rss_mib: float | None = None,
) -> list[Row]:
    """Return what samples (seconds) amount to: a row for each floor, one without if there is none.

    The 99th of 100 needs a hundred samples: with fewer it would be the worst of them, so there is none.
    """
    middle = statistics.median(samples)
    row = Row(
        what=what,
        mode=mode,
        services=size.services,
        endpoints=size.endpoints,
        samples=len(samples),
        p50_ms=percentile(samples, 0.5) * 1000,
        p99_ms=percentile(samples, 0.99) * 1000 if len(samples) >= 100 else None,
        seconds=middle,
        cpu_seconds=cpu_seconds,
        rss_mib=rss_mib,
    )
    found = [
        msgspec.structs.replace(row, floor=name, floor_seconds=floor, ratio=middle / floor)
        for name, values in (floors or {}).items()
        if values
        for floor in (statistics.median(values),)
    ]
    return found or [row]


def encode(found: Iterable[Row]) -> bytes:
    """Return the JSON of rows: a list of objects."""
    return msgspec.json.format(msgspec.json.encode(list(found)), indent=1) + b"\n"


def decode(data: bytes | str) -> list[Row]:
    """Read what `encode` wrote."""
    return msgspec.json.decode(data, type=list[Row])


def latest(runs: Iterable[Iterable[Row]]) -> list[Row]:
    """Return the rows of several runs, by what, mode and size; of what was measured again the last word counts."""
    found: dict[tuple[str, str, int, int], list[Row]] = {}
    for run in runs:
        mine: dict[tuple[str, str, int, int], list[Row]] = {}
        for row in run:
            mine.setdefault((row.what, row.mode, row.endpoints, row.services), []).append(row)
        found |= mine
    whats, modes = (list(dict.fromkeys(key[part] for key in found)) for part in (0, 1))
    ordered = sorted(found, key=lambda key: (whats.index(key[0]), modes.index(key[1]), *key[2:]))
    return [row for key in ordered for row in found[key]]
