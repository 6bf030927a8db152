"""Tests inside a machine, seen from the host: what becomes of them when all is well, and when it is not."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kubeproxy.lab.machine.client import Completed
from kubeproxy.lab.machine.spec import MachineError, Spec
from tests.machine_bed import UML, UML_KERNEL, Inside, with_both

pytestmark = pytest.mark.unit


class FakeMachine:
    """Says ``told`` on the reports' descriptor, then ends as ``end`` says."""

    def __init__(self, told: Sequence[dict[str, Any]], end: Completed | Exception) -> None:
        self.told, self.end = told, end
        self.stopped = False

    def run(
        self, argv: Sequence[str], *, on_output: Callable[[bytes], None] | None = None, **_: object
    ) -> Completed:
        if on_output is None:
            return Completed(status=0)
        data = b"".join(json.dumps(each).encode() + b"\n" for each in self.told)
        for start in range(0, len(data), 7):
            on_output(data[start : start + 7])
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    def stop(self) -> None:
        self.stopped = True


def report_of(item: pytest.Item, outcome: str, text: str | None) -> dict[str, Any]:
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome=outcome,
        longrepr=text,
        when="call",
        sections=[("Captured stdout call", "seen inside")],
    )
    return {"report": item.config.hook.pytest_report_to_serializable(config=item.config, report=report)}


def ran(item: pytest.Item, outcome: str = "passed", text: str | None = None) -> list[dict[str, Any]]:
    return [{"began": item.nodeid}, report_of(item, outcome, text), {"finished": item.nodeid}]


@pytest.fixture
def items(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Two items of this very run will do."""
    own = request.node
    other = pytest.Function.from_parent(own.parent, name="other", callobj=lambda: None)
    return [own, other]


def inside(items: list[pytest.Item], told: Sequence[dict[str, Any]], end: Completed | Exception) -> Inside:
    spec = UML.spec_for(items[0])
    return Inside(UML, spec, items, items[0].config, boot=lambda *_: FakeMachine(told, end))  # type: ignore


def test_outcomes_and_texts_from_inside_are_the_hosts(items: list[pytest.Item]) -> None:
    told = ran(items[0]) + ran(items[1], "failed", "assert 1 == 2")
    run = inside(items, told, Completed(status=1))
    try:
        (good,) = run.reports(items[0])
        (bad,) = run.reports(items[1])
    finally:
        run.stop()
    assert (good.passed, bad.failed, bad.longrepr) == (True, True, "assert 1 == 2")
    assert bad.capstdout == "seen inside"


def test_a_machine_that_does_not_come_up_fails_every_test_with_its_reason(items: list[pytest.Item]) -> None:
    def boot(*_: object) -> Any:
        raise MachineError("there is no linux.uml on this machine; install Debian's package user-mode-linux")

    run = Inside(UML, UML.spec_for(items[0]), items, items[0].config, boot=boot)
    try:
        for item in items:
            (report,) = run.reports(item)
            assert report.failed
            assert "user-mode-linux" in report.longrepr
    finally:
        run.stop()


def test_a_machine_that_dies_fails_the_rest_and_names_what_was_running(items: list[pytest.Item]) -> None:
    told = [*ran(items[0]), {"began": items[1].nodeid}]
    run = inside(items, told, MachineError("machine tests ended by itself: its kernel panicked"))
    try:
        (good,) = run.reports(items[0])
        (bad,) = run.reports(items[1])
    finally:
        run.stop()
    assert good.passed
    assert bad.failed
    assert (
        bad.longrepr == f"machine tests ended by itself: its kernel panicked, while {items[1].nodeid} was running"
    )


def test_a_pytest_inside_that_ends_early_shows_its_last_lines(items: list[pytest.Item]) -> None:
    end = Completed(status=4, stderr=b"ERROR: no such file\n", out_of_memory=True)
    run = inside(items, [{"error": "x could not be collected inside:\nSyntaxError"}], end)
    try:
        (report,) = run.reports(items[0])
    finally:
        run.stop()
    for part in ("status 4", "ran out of memory", "ERROR: no such file", "SyntaxError"):
        assert part in report.longrepr


def test_the_marker_says_which_machine(items: list[pytest.Item]) -> None:
    items[0].add_marker(pytest.mark.uml(memory="1G"))
    assert UML.spec_for(items[0]) == Spec(name="tests", memory="1G")
    assert UML.spec_for(items[1]) == Spec(name="tests", memory="768M")
    qemu = with_both({})
    assert qemu.spec_for(items[1]).boot_seconds > UML.spec_for(items[1]).boot_seconds
    assert qemu.spec_for(items[0]).memory == qemu.memory
    assert Path(qemu.spec_for(items[0]).kernel).name == "kernel"


def test_a_kernel_of_ones_own_takes_the_place_of_the_one_under_qemu() -> None:
    kind = with_both({UML_KERNEL: "built"})
    assert (kind.marker, kind.slowness, kind.kernel) == ("qemu", UML.slowness, str(Path("built").resolve()))
