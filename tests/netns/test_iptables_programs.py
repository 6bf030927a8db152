"""The iptables adapter on the real programs, each in a network namespace of its own."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence

import pytest

from kubeproxy.kernel.exec import CommandFailed, CommandMissing, Result, SystemExec
from kubeproxy.kernel.iptables import RESTORE_GRACE_SECONDS, Flavour, Iptables, RestoreFailed, detect_flavour
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.netns


class InNamespace:
    """Runs programs inside one network namespace."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(
        self, argv: Sequence[str], *, stdin: str | Iterable[str] = "", check: bool = True, timeout: float = 60.0
    ) -> Result:
        inside = ["ip", "netns", "exec", self._name, *argv]
        return SystemExec().run(inside, stdin=stdin, check=check, timeout=timeout)


@pytest.fixture
def execute() -> Iterator[InNamespace]:
    name = f"kp-programs-{os.getpid()}"
    SystemExec().run(["ip", "netns", "add", name])
    yield InNamespace(name)
    SystemExec().run(["ip", "netns", "del", name])


@pytest.fixture(params=list(Flavour))
def iptables(request: pytest.FixtureRequest, execute: InNamespace) -> Iptables:
    return Iptables(execute, Family.V4, request.param)


def test_a_streamed_text_is_committed_whole(iptables: Iptables) -> None:
    pieces = (piece for piece in ("*nat\n", ":OURS - [0:0]\n", "-A OURS -p tcp -j ACC", "EPT\n", "COMMIT\n"))
    iptables.restore(pieces)
    assert "-A OURS -p tcp -j ACCEPT" in iptables.save("nat")


def test_a_text_may_be_as_long_in_coming_as_a_restore_may_take() -> None:
    """iptables-legacy's wait for the lock goes on, unseen, while it reads: 5 s cut every longer text off."""
    asked: list[tuple[float, float]] = []

    class Asked:
        def run(
            self,
            argv: Sequence[str],
            *,
            stdin: str | Iterable[str] = "",
            check: bool = True,
            timeout: float = 60.0,
        ) -> Result:
            asked.append((float(argv[argv.index("--wait") + 1]), timeout))
            return Result(status=0, stdout="", stderr="")

    Iptables(Asked(), Family.V4, Flavour.LEGACY).restore("")
    ((lock, whole),) = asked
    assert lock + RESTORE_GRACE_SECONDS >= whole


def test_a_refused_text_leaves_nothing_and_names_its_line(iptables: Iptables) -> None:
    with pytest.raises(RestoreFailed) as refused:
        iptables.restore("*nat\n:OURS - [0:0]\n-A OURS -j ACCEPT\n-A OURS -j NO-SUCH-CHAIN\nCOMMIT\n")
    assert refused.value.line in (4, 5)
    assert "OURS" not in iptables.save("nat")


def test_a_stream_that_breaks_off_is_an_error_and_writes_nothing(iptables: Iptables) -> None:
    def pieces() -> Iterator[str]:
        yield "*nat\n:OURS - [0:0]\n-A OURS -j ACCEPT\n"
        raise ValueError("rendering failed")

    with pytest.raises(ValueError, match="rendering failed"):
        iptables.restore(pieces())
    assert "OURS" not in iptables.save("nat")


def test_a_text_without_commit_writes_nothing(iptables: Iptables) -> None:
    with contextlib.suppress(RestoreFailed):
        iptables.restore("*nat\n:OURS - [0:0]\n-A OURS -j ACCEPT\n")
    assert "OURS" not in iptables.save("nat")


def test_other_chains_are_not_touched(iptables: Iptables) -> None:
    iptables.run("-t", "nat", "-N", "THEIRS")
    iptables.run("-t", "nat", "-A", "THEIRS", "-j", "ACCEPT")
    iptables.restore("*nat\n:OURS - [0:0]\nCOMMIT\n")
    assert "-A THEIRS -j ACCEPT" in iptables.save("nat")


@pytest.mark.parametrize("flavour", list(Flavour))
def test_the_flavour_in_use_is_found(execute: InNamespace, flavour: Flavour) -> None:
    Iptables(execute, Family.V4, flavour).run("-A", "INPUT", "-j", "ACCEPT")
    assert detect_flavour(execute, "KUBE-PROXY-CANARY") is flavour


def test_failures_are_told_apart() -> None:
    with pytest.raises(CommandMissing, match="no-such-program: not installed"):
        SystemExec().run(["no-such-program"])
    with pytest.raises(CommandFailed, match="exit status 2: complaint"):
        SystemExec().run(["sh", "-c", "echo complaint >&2; exit 2"])
    with pytest.raises(CommandFailed, match="did not end within"):
        SystemExec().run(["sleep", "5"], timeout=0.05)
    with pytest.raises(CommandFailed, match=r"caf.udce9"):  # printable, and encodable
        SystemExec().run(["sh", "-c", r"printf 'caf\351\n' >&2; exit 2"])
    assert SystemExec().run(["sh", "-c", "exit 3"], check=False).status == 3


def test_output_that_fills_the_pipe_does_not_block_a_streamed_input() -> None:
    text = ("x" * 4096 + "\n" for _ in range(1000))
    assert len(SystemExec().run(["cat"], stdin=text).stdout) == 4097 * 1000


def test_a_comment_in_another_encoding_is_read_and_written_back(iptables: Iptables) -> None:
    rule = "OURS -m comment --comment caf\udce9 -j ACCEPT"  # a Latin-1 é
    iptables.restore(f"*nat\n:OURS - [0:0]\n-A {rule}\nCOMMIT\n")
    assert f"-A {rule}" in iptables.save("nat").replace('"', "")
    iptables.restore(f"*nat\n-D {rule}\nCOMMIT\n")
    assert "caf" not in iptables.save("nat")


def test_all_tables_are_read_at_once_and_none_is_made_by_it(iptables: Iptables) -> None:
    for table in ("nat", "mangle"):
        iptables.restore(f"*{table}\n:OURS - [0:0]\n-A OURS -j ACCEPT\nCOMMIT\n")
    found = iptables.save_all()
    assert {"nat", "mangle"} <= found.keys()
    assert all("-A OURS -j ACCEPT" in found[table] for table in ("nat", "mangle"))
    assert not any("-A OURS" in text for table, text in found.items() if table not in ("nat", "mangle"))
