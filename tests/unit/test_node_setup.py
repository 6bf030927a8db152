"""What is set once on the node, and the pieces of the start that only flags reach."""

import logging
from pathlib import Path

import pytest
from aiohttp import web

from kubeproxy import agent, logs
from kubeproxy.clock import ManualClock
from kubeproxy.health.http import serve
from kubeproxy.kernel.conntrack_limits import FakeMachine
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.conntrack_limits import MAX
from kubeproxy.node_setup import set_oom_score_adj, set_up_node
from kubeproxy.options import parse

pytestmark = pytest.mark.unit

ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], True),
        (["--nodeport-addresses=127.0.0.0/8,192.0.2.0/24"], True),
        (["--nodeport-addresses=192.0.2.0/24"], False),
        (["--nodeport-addresses=primary"], False),
        (["--iptables-localhost-nodeports=false"], False),
    ],
)
def test_route_localnet_is_set_when_node_ports_answer_there(flags: list[str], wanted: bool) -> None:
    sysctls = FakeSysctls({MAX: "262144"})
    set_up_node(parse([*flags, "--init-only"]), sysctls, FakeMachine())
    assert (sysctls.read(ROUTE_LOCALNET) == "1") is wanted


def test_the_limits_of_connection_tracking_are_set() -> None:
    sysctls, machine = FakeSysctls({MAX: "65536"}), FakeMachine(cpus=4, buckets=16384)
    flags = ["--conntrack-max-per-core=50000", "--conntrack-udp-timeout=45s", "--conntrack-tcp-be-liberal"]
    set_up_node(parse(flags), sysctls, machine)
    found = {name.removeprefix("net/netfilter/nf_conntrack_"): value for name, value in sysctls.values.items()}
    assert {name: value for name, value in found.items() if "/" not in name} == {
        "max": "200000",
        "tcp_timeout_established": "86400",
        "tcp_timeout_close_wait": "3600",
        "tcp_be_liberal": "1",
        "udp_timeout": "45",
    }
    assert machine.size == 50000


def test_too_little_room_that_is_not_ours_to_change_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sysctls = FakeSysctls({MAX: "65536"})
    sysctls.fixed = {MAX}
    set_up_node(parse([]), sysctls, FakeMachine())
    assert "65536, 131072 are wanted" in caplog.text


def test_route_localnet_is_left_to_the_backend_where_there_is_one() -> None:
    sysctls = FakeSysctls({MAX: "262144"})
    set_up_node(parse([]), sysctls, FakeMachine())
    assert ROUTE_LOCALNET not in sysctls.values


def test_a_start_that_fails_changes_nothing_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    sysctls = FakeSysctls()
    monkeypatch.setattr(agent, "ProcSysctls", lambda: sysctls)
    monkeypatch.setattr(agent, "set_oom_score_adj", lambda value: sysctls.ensure("oom", str(value)))
    for flags in (["--kubeconfig=/no/such"], ["--write-config-to=/no/such/file"]):
        assert agent.main(flags) == 1
    assert sysctls.values == {}


def test_oom_score_adj_is_written(tmp_path: Path) -> None:
    set_oom_score_adj(-999, tmp_path / "oom_score_adj")
    assert (tmp_path / "oom_score_adj").read_text() == "-999"


def test_an_oom_score_adj_that_is_refused_is_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_oom_score_adj(-999, tmp_path / "no" / "such")
    assert "oom_score_adj -999: No such file or directory" in caplog.text


async def test_a_taken_port_ends_the_server_on_hard_fail() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            await serve(web.Application(), ("127.0.0.1", port), ManualClock(), hard_fail=True)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("verbosity", "patterns", "shown"),
    [
        (0, {"syncer": 4}, ["syncer"]),
        (0, {"sync*": 4, "*": 0}, ["syncer"]),
        (4, {"syncer": 0}, ["kube"]),
        (0, {"syncer": 3}, []),
    ],
)
def test_vmodule_shows_debug_lines_of_some_files(
    verbosity: int, patterns: dict[str, int], shown: list[str]
) -> None:
    chosen = logs.VModule(verbosity, patterns)
    lines = [
        logging.LogRecord("x", logging.DEBUG, f"/a/{name}.py", 1, "", (), None) for name in ("syncer", "kube")
    ]
    assert [line.module for line in lines if chosen.filter(line)] == shown
    assert chosen.most == max(verbosity, *patterns.values())
    error = logging.LogRecord("x", logging.ERROR, "/a/other.py", 1, "", (), None)
    assert chosen.filter(error)
