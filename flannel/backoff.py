"""Waiting before a retry: 100 ms doubling to 5 s, and one log line for each different complaint."""

import logging

from kubeproxy.clock import Clock

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 5.0


class Backoff:
    """The pauses of one activity that is repeated until it succeeds."""

    def __init__(self, activity: str, clock: Clock, log: logging.Logger) -> None:
        self.failures = 0
        """How often it failed in all."""
        self._activity = activity
        self._clock = clock
        self._log = log
        self._pause = FIRST_SECONDS
        self._complaint = ""

    async def wait(self, error: Exception) -> None:
        """Count and log a failure, then wait; a complaint that repeats is logged once."""
        self.failures += 1
        complaint = f"{error}"
        if complaint != self._complaint:
            self._log.warning("%s failed: %s; trying again until it works", self._activity, complaint)
            self._complaint = complaint
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_SECONDS)
        await self._clock.sleep(pause)

    def reset(self) -> None:
        """Say that it worked."""
        if self._complaint:
            self._log.info("%s works again", self._activity)
        self._pause, self._complaint = FIRST_SECONDS, ""
