"""`kubeproxy status --services` in iptables mode: connections as the kernel tracks them. ipvs mode: tests/uml."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_bed import BIN, Machine, serve_web, two_machines
from tests.connections_bed import connections_are_counted, port_of, watching_ends_cleanly
from tests.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with two_machines(tmp_path) as both:
        both[0].agent()
        serve_web(both[0])
        yield both


def test_connections_are_counted(machines: tuple[Machine, Machine]) -> None:
    node, peer = machines
    connections_are_counted(node, peer)
    server = port_of(node)["servers"][0]
    assert server["scheduler"] == "random"
    # What the kernel does not count here is not said to be 0.
    assert server["counts"]["connections_rate"] is None
    assert server["destinations"][0]["weight"] is None
    watching_ends_cleanly(node)


def test_what_cannot_be_answered_says_why(machines: tuple[Machine, Machine]) -> None:
    node, _ = machines
    for words, complaint in (
        (("nobody",), "Error: there is no Service default/nobody (none that is proxied here)\n"),
        (("web", "--metrics-address=127.0.0.1:1"), "Error: no agent answers at 127.0.0.1:1: Connection refused."),
        (("--watch", "--metrics-address=127.0.0.1:1"), "Error: no agent answers at 127.0.0.1:1"),
    ):
        refused = node.run("kubeproxy", "status", *words)
        assert refused.returncode == 1
        assert refused.stderr.startswith(complaint)
    assert json.loads(node.run("kubeproxy", "status", "--output=json").stdout)["mode"] == "iptables"


def test_on_a_terminal_each_picture_takes_the_place_of_the_last(machines: tuple[Machine, Machine]) -> None:
    node, _ = machines
    ours, theirs = pty.openpty()
    watch = subprocess.Popen(
        ["ip", "netns", "exec", node.name, str(BIN / "kubeproxy"), "status", "web", "--watch=0.2"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def pictures() -> int:
        nonlocal seen
        seen += os.read(ours, 65536)
        return seen.count(b"default/web")

    try:
        until(lambda: pictures() >= 3, "there are several pictures")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 0
        seen += os.read(ours, 65536)
    finally:
        watch.kill()
        watch.wait()
        os.close(ours)
    assert b"\x1b[?1049h" in seen  # the alternate screen,
    assert b"\x1b[?1049l" in seen  # left again,
    assert seen.rindex(b"\x1b[?25h") > seen.index(b"\x1b[?25l")  # and the cursor is back
