"""How many examples a property run draws: few in the short CI run, a thousand histories with --long.

What reproduces a failure is printed with it (`print_blob`), and hypothesis keeps failing examples in .hypothesis/.
It shrinks for five minutes at most (less where `shrinks_for` says so), so `PATIENCE` is what a test must be given.
"""

import functools
import os
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings

LONG = bool(os.environ.get("KUBEPROXY_LONG"))
HISTORIES = 1000 if LONG else 50
STEPS = 10 if LONG else 6
PATIENCE = pytest.mark.timeout(7200 if LONG else 600)


def runs(examples: int = HISTORIES) -> settings:
    """Return the settings of one property."""
    slow = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
    phases = (
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
        Phase.shrink,
    )  # to explain traces every line, for minutes
    return settings(
        max_examples=examples, deadline=None, print_blob=True, suppress_health_check=slow, phases=phases
    )


def shrinks_for(seconds: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a test inside of `given`: so long after the first failure, no new example is tried."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        failing: dict[str, float] = {}

        @functools.wraps(test)
        def bounded(*values: object, **named: object) -> None:
            example = repr((values, named))
            if failing and example not in failing and time.monotonic() - min(failing.values()) > seconds:
                return
            try:
                test(*values, **named)
            except Exception:
                failing.setdefault(example, time.monotonic())
                raise

        return bounded

    return decorate
