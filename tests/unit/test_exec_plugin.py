"""Exec credential plugins: what they are told, when they run, and everything that they may get wrong."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kubeproxy.access import find_access
from kubeproxy.clock import ManualClock
from kubeproxy.kernel.exec import CommandFailed
from kubeproxy.kernel.plugin import run_plugin
from kubeproxy.store.base import Unavailable
from kubeproxy.store.credentials import Access
from tests.unit.test_kubeconfig import CA_DATA, SERVER, write

pytestmark = pytest.mark.unit

V1 = "client.authentication.k8s.io/v1"


class Plugin:
    """A kubeconfig whose plugin is a script that prints a file, and counts its runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.script("echo run >> runs; printenv KUBERNETES_EXEC_INFO > info; echo $EXTRA > extra; cat answer")

    def script(self, text: str) -> None:
        path = self.directory / "plugin"
        path.write_text(f"#!/bin/sh\ncd {self.directory}\n{text}\n")
        path.chmod(0o755)

    def answer(self, **status: Any) -> None:
        found = {"apiVersion": V1, "kind": "ExecCredential", "status": status}
        (self.directory / "answer").write_bytes(msgspec.json.encode(found))

    @property
    def runs(self) -> int:
        return len((self.directory / "runs").read_text().splitlines())

    def access(self, **changes: Any) -> Access:
        config = {
            "command": "./plugin", "apiVersion": V1, "interactiveMode": "IfAvailable",
            "env": [{"name": "EXTRA", "value": "more"}], "provideClusterInfo": True,
            "installHint": "get it from us",
        }  # fmt: skip
        cluster = {
            "server": SERVER, "certificate-authority-data": CA_DATA,
            "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "us"}}],
        }  # fmt: skip
        path = write(self.directory / "config", cluster, {"exec": config | changes})
        access = find_access(self.clock, kubeconfig=str(path))
        assert access is not None
        return access


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


async def token(access: Access) -> str | None:
    return (await access.credentials.current()).headers.get("Authorization")


async def test_it_is_told_of_the_cluster_and_runs_once_for_many(plugin: Plugin) -> None:
    plugin.answer(token="one")
    access = plugin.access()
    assert await asyncio.gather(*(token(access) for _ in range(5))) == ["Bearer one"] * 5
    assert plugin.runs == 1
    info = msgspec.json.decode((plugin.directory / "info").read_bytes())
    cluster = {"server": SERVER, "certificate-authority-data": CA_DATA, "config": {"audience": "us"}}
    assert info == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False, "cluster": cluster}}
    assert (plugin.directory / "extra").read_text() == "more\n"


async def test_it_runs_again_when_its_answer_expires(plugin: Plugin) -> None:
    plugin.answer(token="one", expirationTimestamp="1970-01-12T13:56:40Z")  # 10 minutes on the manual clock
    access = plugin.access()
    assert await token(access) == "Bearer one"
    await plugin.clock.step(599)
    plugin.answer(token="two")
    assert await token(access) == "Bearer one"
    await plugin.clock.step(1)
    assert await token(access) == "Bearer two"


async def test_it_runs_again_when_the_server_refuses_but_not_all_the_time(plugin: Plugin) -> None:
    plugin.answer(token="one")
    access = plugin.access()
    first = await access.credentials.current()
    assert not await access.credentials.refused(first)
    assert plugin.runs == 1
    await plugin.clock.step(10)
    assert not await access.credentials.refused(first)
    assert plugin.runs == 2
    await plugin.clock.step(10)
    plugin.answer(token="two")
    assert await access.credentials.refused(first)
    assert await access.credentials.refused(first), "somebody else has had it renewed"
    assert plugin.runs == 3


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo rubbish", "decoding stdout"),
        ("echo oh no >&2; exit 1", "exit status 1: oh no"),
        ('echo \'{"kind":"ExecCredential","apiVersion":"v0"}\'', "not an ExecCredential of"),
        (f'echo \'{{"kind":"ExecCredential","apiVersion":"{V1}"}}\'', "didn't return a status field"),
        (f'echo \'{{"kind":"ExecCredential","apiVersion":"{V1}","status":{{}}}}\'', "didn't return a token"),
        ("yes", "printed more than 1 MiB"),
    ],
)
async def test_what_it_gets_wrong_is_said_and_worth_a_retry_later(
    plugin: Plugin, script: str, complaint: str
) -> None:
    plugin.script(script)
    access = plugin.access()
    for _ in range(2):
        with pytest.raises(Unavailable, match="getting credentials: exec: ") as failed:
            await token(access)
        assert complaint in str(failed.value)
    plugin.script("cat answer")
    plugin.answer(token="better")
    with pytest.raises(Unavailable):
        await token(access)
    await plugin.clock.step(10)
    assert await token(access) == "Bearer better"


async def test_a_missing_program_is_said_with_how_to_get_it(plugin: Plugin) -> None:
    with pytest.raises(Unavailable, match=r"executable no-such-plugin not found; get it from us$"):
        await token(plugin.access(command="no-such-plugin"))


async def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"sleep 60 & echo $! > {child}; wait"
    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s"):
        await run_plugin(["sh", "-c", script], {}, 0.3)
    gone = f"/proc/{child.read_text().strip()}/stat"
    for _ in range(500):
        if not Path(gone).exists() or Path(gone).read_text().split()[2] == "Z":
            return
        await asyncio.sleep(0.01)
    pytest.fail("its child still runs")


async def test_it_has_no_stdin() -> None:
    script = "import sys; print(len(sys.stdin.read()))"
    assert await run_plugin([sys.executable, "-c", script], {}, 10) == b"0\n"
