"""One pod on its node, from the moment the scheduler has put it there until nothing of it is left.

    set up ──► init containers, one after the other ──► containers ──► (deletion) stop ──► tear down ──► DELETE
       ▲ or take over what a killed kubelet left: same network, same processes, no restart

What flows in: the pod's object, again at each change (`update`). What flows out: its status, written whenever it
differs from what was written last, and its files (podfiles.py). A step that fails is retried with growing pauses
and shown as the waiting reason of its containers.

The graceful end is what keeps "delete a pod" without a failed request: from the deletionTimestamp on the
EndpointSlice controller calls the pod terminating, the proxies take it out, and meanwhile the process, told by
SIGTERM, drains (responder.py). Only when all its processes have ended is the object deleted.
"""

import asyncio
import logging
from typing import Any

import msgspec

from kubeproxy.lab import podetc
from kubeproxy.lab.asking import check_for
from kubeproxy.lab.containerprocess import ContainerProcess, Sandbox, adopt, run, start
from kubeproxy.lab.containers import CannotStart, ContainerRunner, Plan
from kubeproxy.lab.launching import ConfigMaps, command_line, environment, inside
from kubeproxy.lab.node import Node
from kubeproxy.lab.podfiles import ContainerRecord, MissingSource, PodDirectory, PodRecord
from kubeproxy.lab.podsetup import SETUP_FAILURES, make, read_config_maps, take_over
from kubeproxy.lab.podspec import ContainerSpec, LabPod
from kubeproxy.lab.podstatus import ContainerReport, PodFacts
from kubeproxy.lab.probes import Check, ProbeSpec
from kubeproxy.lab.publishing import StatusPublisher
from kubeproxy.lab.teardown import tear_down
from kubeproxy.model.timestamps import timestamp
from kubeproxy.store.base import StoreError
from kubeproxy.store.kube import ApiError
from kubeproxy.store.resources import PODS

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
FORCED_GRACE_SECONDS = 3.0
"""What is left to the processes of a pod whose object is gone already: enough for a responder's drain."""
OPENED_POLL_SECONDS = 0.02
NOT_FOUND = 404


class PodWorker:
    """Runs one pod (one uid). ``run`` returns when nothing of it is left."""

    def __init__(self, pod: LabPod, node: Node) -> None:
        self._pod = pod
        self._node = node
        self._directory = PodDirectory(node.state_dir, *pod.metadata.key)
        self.title = "/".join(pod.metadata.key)
        self._ending = asyncio.Event()
        self._gone = False
        self._record: PodRecord | None = None
        self._maps: ConfigMaps = {}
        self._waiting = ("ContainerCreating", "")
        self._init: dict[str, ContainerRunner] = {}
        self._runners: dict[str, ContainerRunner] = {}
        self._publisher = StatusPublisher(pod, node, self._facts)
        self._started_at = timestamp(node.clock.wall())
        self.update(pod)

    @property
    def uid(self) -> str:
        """Which pod of this name it is."""
        return self._pod.metadata.uid

    def heir(self) -> "PodWorker":
        """Return a worker for the same pod, when this one came to an end that it should not have."""
        fresh = PodWorker(self._pod, self._node)
        if self._gone:
            fresh.forget()
        return fresh

    def update(self, pod: LabPod) -> None:
        """Take a newer state of the object."""
        self._pod = pod
        if pod.metadata.deletion_timestamp is not None:
            self._ending.set()

    def forget(self) -> None:
        """The object is gone: end the pod without writing to the API about it."""
        self._gone = True
        self._ending.set()

    async def run(self) -> None:
        """Set up, run, stop, tear down."""
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(self._publisher.run())
            living = tasks.create_task(self._live())
            await self._ending.wait()
            if self._gone:
                publishing.cancel()
            await self._stop(FORCED_GRACE_SECONDS if self._gone else self._pod.grace_seconds, living)
            publishing.cancel()
        await self._tear_down()
        await self._delete_object()

    async def _stop(self, grace: float, living: "asyncio.Task[None]") -> None:
        """Stop what runs; a container that is being started meanwhile is stopped when it stands."""
        while not living.done():
            runners = [*self._init.values(), *self._runners.values()]
            await asyncio.gather(*(runner.stop(grace) for runner in runners))
            await asyncio.wait([living], timeout=0.05)

    async def _live(self) -> None:
        if self._pod.status.phase in ("Succeeded", "Failed"):
            return
        if not await self._set_up():
            return
        assert self._record is not None
        self._prepare_runners()
        self._publisher.changed()
        if not self._record.initialized and not await self._initialize():
            return
        self._save(initialized=True)
        async with asyncio.TaskGroup() as tasks:
            for runner in self._runners.values():
                tasks.create_task(runner.run())

    async def _set_up(self) -> bool:
        """Give the pod its network and files, or take them over; False when it is to end before that."""
        pause = FIRST_PAUSE_SECONDS
        while not self._ending.is_set():
            try:
                self._maps = await read_config_maps(self._pod, self._node)
                self._record = await self._settle()
                return True
            except SETUP_FAILURES as error:
                if self._waiting[1] != str(error):
                    log.warning("pod %s cannot be set up, retrying: %s", self.title, error)
                self._waiting = ("ContainerCreating", str(error))
                self._publisher.changed()
            await self._pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        return False

    async def _pause(self, seconds: float) -> None:
        """Wait, or less when the pod is to end."""
        timer = asyncio.create_task(self._node.clock.sleep(seconds))
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait([timer, ending], return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        ending.cancel()

    async def _settle(self) -> PodRecord:
        standing = await take_over(self._pod, self._node, self._directory)
        if standing is not None:
            self._started_at = standing.started_at
            return standing
        return await make(self._pod, self._node, self._directory, self._maps, self._started_at)

    def _prepare_runners(self) -> None:
        assert self._record is not None
        policy = self._pod.spec.restart_policy
        once = "OnFailure" if policy == "Always" else policy
        for container in self._pod.spec.init_containers or ():
            self._init[container.name] = self._runner(container, once)
        for container in self._pod.spec.containers:
            runner = self._runners[container.name] = self._runner(container, policy)
            standing = self._record.containers.get(container.name)
            if standing is not None:
                _take_over(runner, standing)

    def _runner(self, container: ContainerSpec, restart_policy: str) -> ContainerRunner:
        plan = Plan(
            spec=container,
            title=f"{self.title}/{container.name}",
            restart_policy=restart_policy,
            start=lambda: self._start(container),
            opened=lambda: self._opened(container),
            checks=dict(self._checks(container)),
            pre_stop=lambda grace: self._pre_stop(container, grace),
        )
        return ContainerRunner(plan, clock=self._node.clock, on_change=self._container_changed)

    async def _initialize(self) -> bool:
        """Run the init containers in order; False when one of them failed for good or the pod is to end."""
        for runner in self._init.values():
            await runner.run()
            ended = runner.report.ended
            if self._ending.is_set() or ended is None or ended.exit_code != 0:
                return False
        return True

    def _container_changed(self) -> None:
        self._save()
        self._publisher.changed()

    def _save(self, **changes: Any) -> None:
        assert self._record is not None
        containers = {name: _recorded(runner) for name, runner in self._runners.items()}
        running = [
            runner.process.pid
            for runner in (*self._runners.values(), *self._init.values())
            if runner.process is not None
        ]
        self._record = msgspec.structs.replace(
            self._record, containers=containers, pid=running[0] if running else 0, **changes
        )
        self._directory.write(self._record)

    def _sandbox(self, container: ContainerSpec) -> Sandbox:
        assert self._record is not None
        try:
            binds = self._directory.binds(self._pod, container)
        except MissingSource as error:
            raise CannotStart("CreateContainerConfigError", str(error)) from None
        return Sandbox(
            netns=self._record.netns or self._node.netns,
            hostname=podetc.pod_hostname(self._pod, self._node.name),
            resolv_conf=self._record.resolv_conf,
            hosts=self._record.hosts,
            binds=binds,
        )

    def _environment(self, container: ContainerSpec) -> dict[str, str]:
        assert self._record is not None
        return environment(
            self._pod,
            container,
            self._maps,
            hostname=podetc.pod_hostname(self._pod, self._node.name),
            address=self._record.address,
            host_ip=self._node.address,
        )

    async def _start(self, container: ContainerSpec) -> ContainerProcess:
        variables = self._environment(container)
        ready_file = self._directory.ready_file(container.name)
        ready_file.unlink(missing_ok=True)
        argv = command_line(self._pod, container, variables, node=self._node.name, ready_file=ready_file)
        return start(
            inside(self._sandbox(container), container, argv),
            environment=variables,
            log_file=self._directory.log_file(container.name),
        )

    async def _opened(self, container: ContainerSpec) -> None:
        """Wait until a responder has opened its ports: without a probe, nothing else would hold clients back."""
        if container.is_responder:
            while not self._directory.ready_file(container.name).exists():
                await self._node.clock.sleep(OPENED_POLL_SECONDS)

    def _checks(self, container: ContainerSpec) -> list[tuple[str, tuple[ProbeSpec, Check]]]:
        assert self._record is not None
        probes = {
            "startup": container.startup_probe,
            "readiness": container.readiness_probe,
            "liveness": container.liveness_probe,
        }
        found = []
        for name, spec in probes.items():
            if spec is None:
                continue
            check = check_for(
                spec,
                container,
                address=self._record.address,
                session=self._node.session,
                run=lambda argv, seconds: self._run_inside(container, argv, seconds),
            )
            if check is None:
                log.warning("pod %s: a %s probe of a kind the lab has not is left out", self.title, name)
            else:
                found.append((name, (spec, check)))
        return found

    async def _run_inside(self, container: ContainerSpec, argv: list[str], seconds: float) -> tuple[int, str]:
        command = inside(self._sandbox(container), container, argv)
        return await run(command, environment=self._environment(container), timeout_seconds=seconds)

    async def _pre_stop(self, container: ContainerSpec, grace: float) -> None:
        hook = container.lifecycle.pre_stop if container.lifecycle else None
        if hook is None:
            return
        if hook.sleep is not None:
            await self._node.clock.sleep(min(hook.sleep.seconds, grace))
        elif hook.exec is not None:
            try:
                await self._run_inside(container, list(hook.exec.command), grace)
            except (TimeoutError, OSError, CannotStart) as error:
                log.warning("pod %s: preStop of %s failed: %s", self.title, container.name, error)

    def _facts(self) -> PodFacts:
        record = self._record
        if self._runners:
            init = [runner.report for runner in self._init.values()]
            containers = [runner.report for runner in self._runners.values()]
        else:
            reason, message = self._waiting
            waiting = [
                ContainerReport(name=each.name, image=each.image, reason=reason, message=message)
                for each in self._pod.all_containers
            ]
            count = len(self._pod.spec.init_containers or ())
            init, containers = waiting[:count], waiting[count:]
        if not (record and record.initialized) and self._init:
            containers = [msgspec.structs.replace(each, reason="PodInitializing") for each in containers]
        return PodFacts(
            address=record.address if record else "",
            host_ip=self._node.address,
            started_at=self._started_at,
            initialized=bool(record and record.initialized) or not self._pod.spec.init_containers,
            init=init,
            containers=containers,
        )

    async def _tear_down(self) -> None:
        record = self._record or self._directory.read()
        if record is not None and record.uid == self.uid:
            await tear_down(record, self._node)
        self._node.pool.free(self.uid)

    async def _delete_object(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._gone:
            try:
                await self._node.client.delete(PODS, *self._pod.metadata.key, grace_period_seconds=0)
                return
            except StoreError as error:
                if isinstance(error, ApiError) and error.code == NOT_FOUND:
                    return
                await self._node.clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _take_over(runner: ContainerRunner, standing: ContainerRecord) -> None:
    process = adopt(standing.process) if standing.process is not None else None
    restarts = standing.restarts + (process is None and standing.process is not None)
    report = msgspec.structs.replace(runner.report, restarts=restarts)
    if process is not None:
        report = msgspec.structs.replace(
            report,
            pid=process.pid,
            started_at=standing.started_at,
            started=standing.started,
            ready=standing.ready,
        )
    runner.adopt(process, report)


def _recorded(runner: ContainerRunner) -> ContainerRecord:
    report = runner.report
    return ContainerRecord(
        process=runner.process.identity if runner.process is not None else None,
        started_at=report.started_at,
        restarts=report.restarts,
        started=report.started,
        ready=report.ready,
    )
