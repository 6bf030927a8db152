"""What is set once on the node, and the pieces of the start that only flags reach."""

import logging
from pathlib import Path

import pytest
from aiohttp import web

from kubeproxy import agent, logs
from kubeproxy.clock import ManualClock
from kubeproxy.health.http import serve
from kubeproxy.kernel.conntrack_limits import FakeMachine
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.sysctl import FakeSysctls, SysctlRefused
from kubeproxy.model.conntrack_limits import MAX
from kubeproxy.node_setup import set_oom_score_adj, set_up_node
from kubeproxy.options import parse

pytestmark = pytest.mark.unit


class Timers:
    """IPVS, as far as its timeouts go."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal
        self.seconds: dict[str, int] = {}

    def set_timeouts(self, *, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        if self.refusal:
            raise KernelError(self.refusal)
        self.seconds = {"tcp": tcp, "tcp_fin": tcp_fin, "udp": udp}


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
    set_up_node(parse([*flags, "--init-only"]), sysctls, FakeMachine(), Timers())
    assert (sysctls.read(ROUTE_LOCALNET) == "1") is wanted


def test_the_limits_of_connection_tracking_are_set() -> None:
    sysctls, machine = FakeSysctls({MAX: "65536"}), FakeMachine(cpus=4, buckets=16384)
    flags = ["--conntrack-max-per-core=50000", "--conntrack-udp-timeout=45s", "--conntrack-tcp-be-liberal"]
    set_up_node(parse(flags), sysctls, machine, Timers())
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
    set_up_node(parse([]), sysctls, FakeMachine(), Timers())
    assert "65536, 131072 are wanted" in caplog.text


def test_route_localnet_is_left_to_the_backend_where_there_is_one() -> None:
    sysctls = FakeSysctls({MAX: "262144"})
    set_up_node(parse([]), sysctls, FakeMachine(), Timers())
    assert ROUTE_LOCALNET not in sysctls.values


VS = "net/ipv4/vs"
ALWAYS = {f"{VS}/{name}": "1" for name in ("conntrack", "expire_nodest_conn", "expire_quiescent_template")}
ALWAYS["net/ipv4/ip_forward"] = "1"
OLD = ALWAYS | {f"{VS}/conn_reuse_mode": "0"}
STRICT = ALWAYS | {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}


@pytest.mark.parametrize(
    ("release", "flags", "wanted"),
    [
        ("6.1.176", [], ALWAYS),
        ("5.9.0", [], ALWAYS),
        ("5.8.18-amd64", [], OLD),
        ("4.1", [], OLD),
        ("4.0.9", [], ALWAYS),
        ("3.10.0-1160.el7", [], ALWAYS),
        ("6-rc1", [], ALWAYS),
        ("", [], ALWAYS),
        ("6.1.176", ["--ipvs-strict-arp"], STRICT),
    ],
)
@pytest.mark.parametrize("only", [[], ["--init-only"]])
def test_ipvs_mode_sets_its_parameters(
    release: str, flags: list[str], wanted: dict[str, str], only: list[str]
) -> None:
    sysctls = FakeSysctls({MAX: "262144", "kernel/osrelease": release})
    set_up_node(parse(["--mode=ipvs", *flags, *only]), sysctls, FakeMachine(), Timers())
    found = {name: value for name, value in sysctls.values.items() if name.startswith("net/ipv4/")}
    assert found == wanted  # and so not route_localnet


def test_a_parameter_of_ipvs_mode_that_is_refused_ends_the_start() -> None:
    sysctls = FakeSysctls({MAX: "262144"})
    sysctls.refused = {f"{VS}/conntrack"}
    with pytest.raises(SysctlRefused, match=r"sysctl net/ipv4/vs/conntrack=1: .*; set it before the start"):
        set_up_node(parse(["--mode=ipvs"]), sysctls, FakeMachine(), Timers())


@pytest.mark.parametrize(
    ("flags", "seconds"),
    [
        ([], {}),
        (["--ipvs-tcp-timeout=2h"], {"tcp": 7200, "tcp_fin": 0, "udp": 0}),
        (["--ipvs-tcpfin-timeout=2m", "--ipvs-udp-timeout=1500ms"], {"tcp": 0, "tcp_fin": 120, "udp": 2}),
        (["--ipvs-udp-timeout=1ms"], {"tcp": 0, "tcp_fin": 0, "udp": 1}),
    ],
)
def test_ipvs_is_told_its_timeouts(
    flags: list[str], seconds: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    timers = Timers()
    set_up_node(parse(["--mode=ipvs", *flags]), FakeSysctls({MAX: "262144"}), FakeMachine(), timers)
    assert timers.seconds == seconds
    refusing = Timers("IPVS timeouts: Operation not permitted")
    set_up_node(parse(["--mode=ipvs", *flags]), FakeSysctls({MAX: "262144"}), FakeMachine(), refusing)
    assert ("the timeouts of IPVS stay as they are: IPVS timeouts" in caplog.text) is bool(seconds)
    set_up_node(parse(["--mode=iptables", *flags]), FakeSysctls({MAX: "262144"}), FakeMachine(), refusing)


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
