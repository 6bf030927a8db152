"""Which labs there are, who owns a name, and what is done about one whose processes are gone."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from kubeproxy.lab import state
from kubeproxy.lab.state import LabError, Owner, Record, State

pytestmark = pytest.mark.unit


def record(name: str = "mylab", creator: Owner | None = None) -> Record:
    return Record(
        name=name, nodes=2, mode="iptables", overlay="vxlan", api_port=1, creator=creator or state.myself()
    )


@pytest.fixture(autouse=True)
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "kubeproxy/labs"
    monkeypatch.setenv("KUBEPROXY_LAB_DIR", str(root))
    return root


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "..", "a\n", "a" * 64, "a b", "é"])
def test_a_name_that_is_no_label_is_refused(name: str, labs: Path) -> None:
    with pytest.raises(LabError, match="not a valid lab name"):
        state.claim(record(name))
    assert not any(labs.iterdir()) if labs.exists() else True


def test_labs_live_where_the_user_may_write() -> None:
    assert state.labs_directory({}, 0) == Path("/run/kubeproxy/labs")
    assert state.labs_directory({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == Path("/run/user/7/kubeproxy/labs")
    assert state.labs_directory({"HOME": "/home/x"}, 7) == Path("/home/x/.local/state/kubeproxy/labs")
    assert state.labs_directory({"KUBEPROXY_LAB_DIR": "/d"}, 7) == Path("/d")


def test_a_directory_that_cannot_be_made_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEPROXY_LAB_DIR", "/proc/labs")
    with pytest.raises(LabError, match="set KUBEPROXY_LAB_DIR"):
        state.claim(record())


def test_a_name_has_one_owner() -> None:
    state.claim(record())
    with pytest.raises(LabError, match='a lab with the name "mylab" already exists'):
        state.claim(record())


def test_a_dead_labs_name_is_free_again(labs: Path) -> None:
    dead = state.claim(record(creator=Owner(pid=os.getpid(), started=1)))
    (dead.directory / "store.db").write_text("old")
    assert dead.state is State.DEAD
    fresh = state.claim(record())
    assert fresh.state is State.STARTING
    assert not (fresh.directory / "store.db").exists()


@pytest.mark.parametrize("text", [None, "", "{", '{"name": 1}'])
def test_a_record_cut_by_a_crash_is_a_dead_lab(labs: Path, text: str | None) -> None:
    (labs / "mylab").mkdir(parents=True)
    if text is not None:
        (labs / "mylab/lab.json").write_text(text)
    lab = state.find("mylab")
    assert lab.state is State.DEAD
    state.remove(lab)
    assert not labs.parent.exists()


def test_removal_leaves_nothing_and_keeps_other_labs(labs: Path) -> None:
    first, second = state.claim(record("one")), state.claim(record("two"))
    state.remove(first)
    assert [lab.record.name for lab in state.every()] == ["two"]
    state.remove(second)
    state.remove(second)
    assert not labs.parent.exists()


def test_removal_ends_the_labs_processes_and_nobody_elses() -> None:
    with subprocess.Popen(["sleep", "60"]) as mine, subprocess.Popen(["sleep", "60"]) as other:
        started = state.start_of(mine.pid)
        assert started is not None
        lab = state.claim(record())
        held = Owner(pid=mine.pid, started=started)
        state.write(lab.directory / state.RECORD, Record(**{**_fields(lab.record), "init": held}))
        state.remove(lab)
        assert mine.wait() == -signal.SIGKILL
        # The number is somebody else's by now: its start time differs.
        state.end(Owner(pid=other.pid, started=1), signal.SIGKILL)
        assert other.poll() is None
        other.kill()


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert state.start_of(process.pid) is None
    process.wait()


def test_status_is_read_as_the_supervisor_wrote_it() -> None:
    lab = state.claim(record())
    assert lab.status() == state.Status()
    said = state.Status(
        ready=True, programs=(state.Program(name="a", machine="b", pid=1, restarts=2, state="Running"),)
    )
    state.write(lab.directory / state.STATUS, said)
    assert lab.status() == said


def _fields(lab_record: Record) -> dict[str, object]:
    return {name: getattr(lab_record, name) for name in lab_record.__struct_fields__}
