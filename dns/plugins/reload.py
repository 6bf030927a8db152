"""`reload [INTERVAL] [JITTER]`: take a changed Corefile without a restart; a bad one changes nothing."""

import random

from dns.chain import Build
from dns.corefile import Directive
from kubeproxy.flags import duration

DEFAULT_INTERVAL = 30.0
SHORTEST_INTERVAL = 2.0
SHORTEST_JITTER = 1.0


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    if len(directive.args) > 2 or directive.block:
        raise directive.wrong("at most an interval and a jitter are expected")
    try:
        times = [duration(text) for text in directive.args]
    except ValueError as error:
        raise directive.wrong(str(error)) from None
    interval = max(times[0], SHORTEST_INTERVAL) if times else DEFAULT_INTERVAL
    jitter = max(times[1], SHORTEST_JITTER) if len(times) > 1 else interval / 2
    if times and times[0] == 0:
        return
    clock = build.runtime.clock

    async def watch() -> None:
        while True:
            # Spread, so that the resolvers of a cluster do not all restart in the same second.
            await clock.sleep(interval + random.uniform(-1, 1) * min(jitter, interval / 2))
            await build.runtime.request_reload()

    build.tasks.append(watch)
