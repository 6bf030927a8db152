"""A pytest inside a machine, seen from the host: it is given test ids and gives reports back."""

import json
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kubeproxy.lab.machine.machine import Machine
from kubeproxy.lab.machine.spec import MachineError, Spec

PREPARE = """
modprobe -a ipv6 nf_conntrack ip_vs
# A machine of this size would have room for 6,144 connections; the scenario table makes more.
echo 262144 >/proc/sys/net/netfilter/nf_conntrack_max
echo 65536 >/sys/module/nf_conntrack/parameters/hashsize
"""
RUN = 'exec "$@" 3>&1 1>&2'
"""Reports go to descriptor 3, which is the command's standard output; everything else to standard error."""
REPORTER = "tests.machine_reporter"
NOT_INSIDE = ("cacheprovider", "hypothesispytest")
"""Plugins: a cache would end with the machine, and to import Hypothesis takes QEMU five seconds."""
BOOT_SECONDS = 20.0
"""How long a boot may take on a machine that is busy with other things, were the guest as fast as its host."""
GRACE = 150.0
"""Seconds beyond a test's timeout after which a machine that says nothing is given up: pytest inside had 60."""
LAST_LINES = 60
IN_THERE = "KUBEPROXY_INSIDE"
"""The variable that says that this is a pytest inside, and names the file with the tests that it is wanted for."""

UML_KERNEL = "KUBEPROXY_UML_KERNEL"
"""The variable that names what scripts/build-uml-kernel made, to be run instead of Debian's kernel under QEMU."""


class Kind(NamedTuple):
    """A kind of machine."""

    marker: str
    """Of its tests; the marker's arguments ask for another machine of the kind."""
    memory: str
    slowness: float
    """How many times as long Python and system calls take inside. The scenario table waits so much longer before
    it calls an answer silence."""
    kernel: str = ""
    """As in `Spec`."""

    def spec_for(self, item: pytest.Item) -> Spec:
        """Return the machine that a test asks for."""
        asked = {"name": "tests", "memory": self.memory}
        for marker in reversed(list(item.iter_markers(self.marker))):
            asked |= marker.kwargs
        return Spec(kernel=self.kernel, boot_seconds=BOOT_SECONDS * self.slowness, **asked)


def with_both(environ: Mapping[str, str]) -> Kind:
    """Return the kind that has IPVS and nftables both.

    Under QEMU the kernel is the one that scripts/setup has put beside the Python that runs the tests.
    """
    if own := environ.get(UML_KERNEL):
        return Kind("qemu", memory="1G", slowness=UML.slowness, kernel=os.fspath(Path(own).resolve()))
    return Kind("qemu", memory="1G", slowness=15, kernel=str(Path(sys.prefix, "kernel")))


UML = Kind("uml", memory="768M", slowness=3)
QEMU = with_both(os.environ)
Boot = Callable[[Spec, str], Machine]


class Inside:
    """One machine and the pytest in it."""

    def __init__(
        self, kind: Kind, spec: Spec, items: list[pytest.Item], config: pytest.Config, boot: Boot = Machine.boot
    ) -> None:
        self.spec = spec
        self._kind = kind
        self._config = config
        self._heard: dict[str, list[pytest.TestReport]] = {}
        self._finished: set[str] = set()
        self._running = ""
        self._errors: list[str] = []
        self._why = ""
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._directory = tempfile.TemporaryDirectory(prefix=f"kubeproxy-{kind.marker}-")
        self._boot = boot
        self._machine: Machine | None = None
        self._booted = threading.Event()
        self._patience = max(_timeout(item) for item in items) + GRACE
        wanted = Path(self._directory.name, "wanted.json")  # Before the boot: a guest may miss later changes.
        wanted.write_text(json.dumps([item.nodeid for item in items]))
        files = list(dict.fromkeys(str(item.path) for item in items))
        self._thread = threading.Thread(target=self._run, args=(files, wanted), daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the machine does nothing any more; its reports are kept."""
        return not self._thread.is_alive()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Wait for a test's outcome and yield its reports; a failure of its own when there will be none."""
        while item.nodeid not in self._finished and not self._why:
            try:
                self._take(self._messages.get(timeout=self._patience))
            except queue.Empty:
                self._why = f"nothing was heard from inside for {self._patience:g} s{self._at()}"
        if item.nodeid in self._finished:
            yield from self._heard.pop(item.nodeid, ())
            return
        yield pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome="failed",
            longrepr="\n".join([self._why, *self._errors]),
            when="setup",
        )

    def stop(self) -> None:
        """End the machine, whatever it does; a boot, which takes seconds, is waited for. May be called again."""
        self._booted.wait()
        if self._machine is not None:
            self._machine.stop()
        self._thread.join()
        self._directory.cleanup()

    def _take(self, message: dict[str, Any]) -> None:
        if "report" in message:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=message["report"])
            self._heard.setdefault(report.nodeid, []).append(report)
        elif "began" in message:
            self._running = message["began"]
        elif "finished" in message:
            self._finished.add(message["finished"])
            self._running = ""
        elif "error" in message:
            self._errors.append(message["error"])
        else:
            self._why = message["end"] + self._at()

    def _at(self) -> str:
        return f", while {self._running} was running" if self._running else ""

    def _run(self, files: list[str], wanted: Path) -> None:
        """Boot and run pytest inside, to its end; on a thread of its own."""
        try:
            machine = self._machine = self._boot(self.spec, self._directory.name)
            self._booted.set()
            done = machine.run(["sh", "-ec", PREPARE], timeout=BOOT_SECONDS * self._kind.slowness)
            if done.status:
                end = f"the machine was not made ready: {done.stderr.decode()}"
            else:
                end = self._pytest(machine, files, wanted)
        except (MachineError, TimeoutError) as error:
            end = str(error) if self._machine else f"no machine for the tests: {error}"
        finally:
            self._booted.set()
        self._messages.put({"end": end})

    def _pytest(self, machine: Machine, files: list[str], wanted: Path) -> str:
        """Run pytest inside, pass on what it tells, and return how it ended."""
        rest = bytearray()

        def take(data: bytes) -> None:
            rest.extend(data)
            while (end := rest.find(b"\n")) >= 0:
                self._messages.put(json.loads(rest[:end]))
                del rest[: end + 1]

        argv = [sys.executable, "-m", "pytest", "-p", REPORTER, *(f"-pno:{each}" for each in NOT_INSIDE)]
        argv += [f"--rootdir={self._config.rootpath}", f"--tb={self._config.getoption('tbstyle')}", "--color=no"]
        done = machine.run(
            ["sh", "-c", RUN, "sh", *argv, *files],
            env=self._environment(wanted),
            cwd=str(self._config.rootpath),
            on_output=take,
        )
        memory = "; the machine ran out of memory" if done.out_of_memory else ""
        tail = "\n".join(done.stderr.decode(errors="replace").splitlines()[-LAST_LINES:])
        return f"pytest inside ended with status {done.status}{memory}\n{tail}"

    def _environment(self, wanted: Path) -> Mapping[str, str]:
        given = {name: value for name, value in os.environ.items() if name.startswith("KUBEPROXY_")}
        given.setdefault("KUBEPROXY_SLOWNESS", f"{self._kind.slowness:g}")
        programs = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**given, "PATH": programs, IN_THERE: os.fspath(wanted)}


def _timeout(item: pytest.Item) -> float:
    """Return the timeout that a test has inside."""
    for marker in item.iter_markers("timeout"):
        if marker.args and marker.args[0]:
            return float(marker.args[0])
    return float(item.config.getoption("timeout") or item.config.getini("timeout") or 0)
