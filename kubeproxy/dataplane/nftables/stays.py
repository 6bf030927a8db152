"""How long affinity keeps a client with its endpoint: as long as was asked for, or a little longer. Pure.

A rule has its time in it, so each time has a chain, and tenants may choose any of 86,400. From `EXACT_SECONDS` on
times are rounded up to a multiple of a step of theirs, at most a twentieth of them: that leaves some 330, and
all that people write by hand (two minutes, three hours, a day) are among them.
"""

from functools import lru_cache

EXACT_SECONDS = 100
"""Shorter times are kept as they are."""

_STEPS = (1800, 900, 600, 300, 60, 30, 15, 10, 5)


@lru_cache(maxsize=1024)
def kept_seconds(seconds: int) -> int:
    """Return the seconds after which a silent client is forgotten, of those that were asked for."""
    if seconds < EXACT_SECONDS:
        return seconds
    step = next(step for step in _STEPS if step * 20 <= seconds)
    return -(-seconds // step) * step
