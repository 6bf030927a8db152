"""One container's life: start, probe, see it end, start again; and its end, when the pod is to go.

The kubelet's rules: a container restarts by the pod's restartPolicy, after a pause that doubles each time it dies
soon (0.1 s to 10 s; upstream 10 s to 5 min, too long for a lab). The startup probe holds the others back; a failed
liveness or startup probe ends the process; readiness only colours the report. To end it: preStop, SIGTERM, and
SIGKILL when the grace is used up.

What flows out is a `ContainerReport`, replaced at every change, and a call of ``on_change``.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.lab.containerprocess import ContainerProcess
from kubeproxy.lab.podspec import ContainerSpec
from kubeproxy.lab.podstatus import ContainerReport, Ended
from kubeproxy.lab.probes import Check, ProbeSpec, follow
from kubeproxy.model.timestamps import timestamp

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 10.0
"""A container that ran this long restarts after the first pause again."""
LIVENESS_GRACE_SECONDS = 10.0


class CannotStart(Exception):
    """A container that cannot be started now; ``reason`` is the API's word, tried again after a pause."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How one container is run: everything about it that is not its state."""

    spec: ContainerSpec
    title: str
    """For the log: namespace/pod/container."""
    restart_policy: str
    start: Callable[[], Awaitable[ContainerProcess]]
    opened: Callable[[], Awaitable[None]]
    """Waits until the process may be asked anything."""
    checks: Mapping[str, tuple[ProbeSpec, Check]]
    """By probe: startup, readiness, liveness."""
    pre_stop: Callable[[float], Awaitable[None]]


class ContainerRunner:
    """Runs one container. ``run`` returns when it has ended for good; until then ``stop`` makes it."""

    def __init__(self, plan: Plan, *, clock: Clock, on_change: Callable[[], None]) -> None:
        self.report = ContainerReport(name=plan.spec.name, image=plan.spec.image)
        self.process: ContainerProcess | None = None
        self._plan = plan
        self._clock = clock
        self._on_change = on_change
        self._stopping = False
        self._task: asyncio.Task[Any] | None = None

    def adopt(self, process: ContainerProcess | None, report: ContainerReport) -> None:
        """Go on from what a former kubelet left: a process that runs on, or one that ended unseen."""
        self.process = process
        self.report = report

    async def run(self) -> None:
        """Keep it running as its policy asks."""
        self._task = asyncio.current_task()
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping:
            began = self._clock.now()
            process = await self._started()
            if process is not None:
                ended = await self._until_end(process)
                if self._stopping or not self._shall_restart(ended):
                    self._say(ended=ended)
                    return
                if self._clock.now() - began >= STEADY_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                self._say(
                    last=ended,
                    restarts=self.report.restarts + 1,
                    reason="CrashLoopBackOff",
                    message=f"back-off {pause:g}s restarting failed container={self.report.name}",
                )
            await self._clock.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _say(self, **changes: Any) -> None:
        self.report = msgspec.structs.replace(self.report, **changes)
        self._on_change()

    def _shall_restart(self, ended: Ended) -> bool:
        policy = self._plan.restart_policy
        return policy == "Always" or (policy == "OnFailure" and ended.exit_code != 0)

    async def _started(self) -> ContainerProcess | None:
        if self.process is not None:
            return self.process  # It was taken over.
        try:
            self.process = await self._plan.start()
        except CannotStart as error:
            self._complain(error.reason, str(error))
            return None
        except OSError as error:
            self._complain("CreateContainerError", str(error))
            return None
        started_at = timestamp(self._clock.wall())
        self._say(pid=self.process.pid, started_at=started_at, started=False, ready=False, ended=None, message="")
        return self.process

    def _complain(self, reason: str, message: str) -> None:
        if (reason, message) != (self.report.reason, self.report.message):
            log.warning("%s cannot start, retrying: %s", self._plan.title, message)
        self._say(reason=reason, message=message)

    async def _until_end(self, process: ContainerProcess) -> Ended:
        began = self._clock.now()
        probing = asyncio.create_task(self._probe(process, began))
        try:
            code = await process.wait()
        finally:
            probing.cancel()
            await asyncio.wait([probing])
        self.process = None
        if not probing.cancelled() and (error := probing.exception()) is not None:
            raise error
        finished = timestamp(self._clock.wall())
        ended = Ended(exit_code=code, started_at=self.report.started_at, finished_at=finished)
        if not self._stopping:
            log.info("%s ended with status %d", self._plan.title, code)
        self._say(pid=0, started=False, ready=False)
        return ended

    async def _probe(self, process: ContainerProcess, began: float) -> None:
        if not self.report.started:
            await self._plan.opened()
            if "startup" in self._plan.checks:
                await self._startup(process, began)
            self._say(started=True, ready="readiness" not in self._plan.checks or self.report.ready)
        async with asyncio.TaskGroup() as tasks:
            for probe, verdict in (("readiness", self._readiness), ("liveness", self._liveness(process))):
                if probe in self._plan.checks:
                    initial = self.report.ready if probe == "readiness" else True
                    tasks.create_task(self._follow(probe, began, initial, verdict))

    async def _follow(
        self, probe: str, began: float, initial: bool | None, verdict: Callable[[bool, str], None]
    ) -> None:
        spec, check = self._plan.checks[probe]
        age = self._clock.now() - began
        await follow(spec, check, clock=self._clock, age=age, initial=initial, report=verdict)

    async def _startup(self, process: ContainerProcess, began: float) -> None:
        passed = asyncio.Event()
        end = self._liveness(process, probe="startup")

        def verdict(healthy: bool, complaint: str) -> None:
            if healthy:
                passed.set()
            else:
                end(healthy, complaint)

        following = asyncio.create_task(self._follow("startup", began, None, verdict))
        try:
            await passed.wait()
        finally:
            following.cancel()

    def _readiness(self, healthy: bool, complaint: str) -> None:
        if not healthy:
            log.info("%s is not ready any more: %s", self._plan.title, complaint)
        self._say(ready=healthy)

    def _liveness(self, process: ContainerProcess, probe: str = "liveness") -> Callable[[bool, str], None]:
        endings: list[asyncio.Task[None]] = []

        def verdict(healthy: bool, complaint: str) -> None:
            if not healthy and not self._stopping:
                log.warning("%s fails its %s probe and is started again: %s", self._plan.title, probe, complaint)
                endings.append(asyncio.create_task(self._end(process, LIVENESS_GRACE_SECONDS)))

        return verdict

    async def stop(self, grace: float) -> None:
        """End it within ``grace`` seconds, for good."""
        self._stopping = True
        process = self.process
        if process is None:
            if self._task is not None:
                self._task.cancel()
            return
        deadline = self._clock.now() + grace
        if grace > 0:
            await self._plan.pre_stop(grace)
        await self._end(process, deadline - self._clock.now())

    async def _end(self, process: ContainerProcess, grace: float) -> None:
        if grace > 0:
            process.signal(signal.SIGTERM)
            ended = asyncio.create_task(process.wait())
            timer = asyncio.create_task(self._clock.sleep(grace))
            await asyncio.wait([ended, timer], return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
            ended.cancel()
        process.kill_all()
