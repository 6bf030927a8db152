"""When machines run: beside pure tests and each other as far as there are processors, and beside nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy.lab.machine.spec import Spec
from tests.machine_bed import QEMU, UML, Kind
from tests.machine_tests import MachineTests

pytestmark = pytest.mark.unit
pytest_plugins = ["pytester"]

FILES = {
    "network/test_network.py": "def test_leaks(): pass\ndef test_rates(): pass",
    "pure/test_pure.py": "def test_one(): pass\ndef test_two(): pass\ndef test_three(): pass",
    "qemu/test_qemu.py": "def test_both(): assert not 'on the host'",
    "uml/test_uml.py": """
import pytest

def test_small(): assert not "on the host"
@pytest.mark.uml(memory="2G")
def test_large(): assert not "on the host"
""",
}
Q, S, L = "qemu 1G", "uml 768M", "uml 2G"
"""The machines that they ask for, in the order in which these are started."""
SLOW = 100
PLUGINS_OFF = ("cacheprovider", "asyncio", "hypothesispytest", "timeout")


class Run:
    """A run of `FILES`, and which machines were on when it was a test's turn."""

    def __init__(self, pytester: pytest.Pytester, *arguments: str, processors: int, looks: int) -> None:
        """Let a machine be done with its tests when it has been looked at so many times."""
        self.looks = looks
        self.on: list[str] = []
        self.seen: dict[str, list[str]] = {}
        for name, text in FILES.items():
            file = Path(pytester.path, name)
            file.parent.mkdir()
            file.write_text(text)
        kinds = {pytester.path / "qemu": QEMU, pytester.path / "uml": UML}
        plugin = MachineTests(kinds, [pytester.path / "pure"], start=self._start, processors=processors)
        options = [f"--rootdir={pytester.path}", *(f"-pno:{each}" for each in PLUGINS_OFF), *arguments]
        self.outcome = pytester.inline_run(*options, plugins=[plugin, self])

    def pytest_configure(self, config: pytest.Config) -> None:
        for marker in ("uml", "qemu"):
            config.addinivalue_line("markers", marker)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.seen[nodeid.rpartition("::test_")[2]] = list(self.on)

    def _start(self, kind: Kind, spec: Spec, *_: object) -> "FakeInside":
        return FakeInside(self, f"{kind.marker} {spec.memory}", self.looks)


class FakeInside:
    def __init__(self, run: Run, name: str, looks: int) -> None:
        self._run, self._name, self._looks = run, name, looks
        run.on.append(name)

    @property
    def ended(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        yield pytest.TestReport(item.nodeid, item.location, {}, outcome="passed", longrepr=None, when="call")

    def stop(self) -> None:
        if self._name in self._run.on:
            self._run.on.remove(self._name)


@pytest.mark.parametrize(
    ("processors", "looks", "beside_pure", "beside_each_other"),
    [
        pytest.param(1, SLOW, [[], [], []], [[Q], [S], [L]], id="one processor"),
        pytest.param(2, SLOW, [[Q], [Q], [Q]], [[Q, S], [Q, S], [L]], id="two processors"),
        pytest.param(2, 1, [[Q], [Q], [S]], [[S, L], [L], []], id="two processors and fast machines"),
        pytest.param(8, SLOW, [[Q, S, L]] * 3, [[Q, S, L]] * 3, id="eight processors"),
        pytest.param(8, 0, [[Q, S, L], [], []], [[], [], []], id="eight processors and faster machines"),
    ],
)
def test_machines_run_beside_pure_tests_and_each_other(
    pytester: pytest.Pytester,
    processors: int,
    looks: int,
    beside_pure: list[list[str]],
    beside_each_other: list[list[str]],
) -> None:
    run = Run(pytester, processors=processors, looks=looks)
    assert list(run.seen) == ["one", "two", "three", "both", "small", "large", "leaks", "rates"]
    assert list(run.seen.values()) == [*beside_pure, *beside_each_other, [], []]
    assert run.outcome.countoutcomes() == [8, 0, 0]


def test_no_machine_is_started_that_no_selected_test_wants(pytester: pytest.Pytester) -> None:
    run = Run(pytester, "-k", "not both and not large and not small", processors=8, looks=SLOW)
    assert run.seen == {"one": [], "two": [], "three": [], "leaks": [], "rates": []}


def test_a_run_that_stops_early_ends_its_machines(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "pure/test_pure.py", "def test_fails(): assert not 'well'\ndef test_after(): pass")
    run = Run(pytester, "-x", processors=2, looks=SLOW)
    assert run.seen == {"fails": [Q]}
    assert run.on == []
