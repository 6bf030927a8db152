"""Who has a node, as other processes see it: in the namespace, beside it, and after its end."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kubeproxy.kernel.sole import PROGRAMMING, TRACING, Taken, Task, alone
from tests.netns.lone_namespace import LoneNamespace, lone_namespace

pytestmark = pytest.mark.netns

HOLD = """
import sys
from kubeproxy.kernel.sole import PROGRAMMING, alone
with alone(PROGRAMMING, "kubeproxy"):
    print("held", flush=True)
    sys.stdin.read()
"""
IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--kill-child")
OF_NOBODY = """
import os, socket, sys
os.setuid(65534)
squatter = socket.socket(socket.AF_UNIX)
squatter.bind("\\0kubeproxy-agent")
if {listening}:
    squatter.listen()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def node() -> Iterator[LoneNamespace]:
    with lone_namespace() as made:
        yield made


class Holders:
    """Processes of a namespace that hold the name until they are ended."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, node: LoneNamespace, program: str = HOLD, *wrapper: str) -> subprocess.Popen[str]:
        argv = [*wrapper, sys.executable, "-c", program]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = node.run(lambda: subprocess.Popen(argv, text=True, **pipes))  # type: ignore[call-overload]
        self._started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                pipe.close()


@pytest.fixture
def holders() -> Iterator[Holders]:
    started = Holders()
    try:
        yield started
    finally:
        started.end()


def attempt(task: Task = PROGRAMMING) -> None:
    with alone(task, "test"):
        pass


def refusal(node: LoneNamespace) -> str:
    with pytest.raises(Taken) as refused:
        node.run(attempt)
    return str(refused.value)


def test_the_holder_is_named_as_often_as_one_asks_and_its_end_frees_the_node(
    node: LoneNamespace, holders: Holders
) -> None:
    for number in (signal.SIGKILL, None):
        holder = holders.start(node)
        for _ in range(300):  # more than its queue of connections holds
            assert refusal(node).startswith(f"kubeproxy (process {holder.pid}) programs this node, ")
        if number is None:
            holder.stdin.close()
        else:
            holder.send_signal(number)
        holder.wait(10)
        node.run(attempt)


def test_another_node_and_another_task_are_free(node: LoneNamespace, holders: Holders) -> None:
    holders.start(node)
    node.run(lambda: attempt(TRACING))
    with lone_namespace() as other:
        other.run(attempt)


def test_a_holder_that_is_stopped_is_known_by_the_kernel(node: LoneNamespace, holders: Holders) -> None:
    holder = holders.start(node)
    holder.send_signal(signal.SIGSTOP)
    os.waitpid(holder.pid, os.WUNTRACED)
    assert refusal(node).startswith(f"process {holder.pid} programs this node, ")


def test_a_holder_in_another_container_has_no_number_here(node: LoneNamespace, holders: Holders) -> None:
    holders.start(node, HOLD, *IN_A_CONTAINER)
    inside = node.run(lambda: subprocess.run([*IN_A_CONTAINER, sys.executable, "-c", HOLD], capture_output=True))
    assert inside.returncode == 1
    assert b"kubeproxy (a process out of sight, in another container) programs this node, " in inside.stderr


@pytest.mark.parametrize("listening", [True, False])
def test_an_ordinary_user_cannot_keep_a_node_from_being_served(
    listening: bool, node: LoneNamespace, holders: Holders, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    squatter = holders.start(node, OF_NOBODY.format(listening=listening))
    with caplog.at_level(logging.WARNING):
        node.run(attempt)
    whose = f"process {squatter.pid} of user 65534" if listening else "a process that does not answer"
    assert f"is held by {whose}" in caplog.text


def test_of_many_at_once_one_has_it(node: LoneNamespace) -> None:
    """The others are told who, however soon after its bind they ask."""
    program = f"{HOLD}".replace("sys.stdin.read()", "sys.stdin.readline()")

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    started = node.run(lambda: [start() for _ in range(6)])
    with ThreadPoolExecutor(len(started)) as threads:
        first = list(threads.map(lambda each: each.stdout.readline(), started))
        assert first.count("held\n") == 1
        winner = started[first.index("held\n")]
        for each in started:
            _, complaint = each.communicate("\n")
            assert each is winner or f"kubeproxy (process {winner.pid}) programs" in complaint
