"""Command lines: what Go's pflag and flag packages take and refuse, and in which words."""

import pytest

from kubeproxy.flags import CommandLine, Flag, FlagError, Style, boolean, comma_list, duration, integer

pytestmark = pytest.mark.unit

FLAGS = [
    Flag("v", integer, 0, "verbosity"),
    Flag("masquerade-all", boolean, False, "masquerade"),
    Flag("proxy-mode", str, "", "mode", "mode"),
    Flag("sync-period", duration, 30.0, "period"),
    Flag("nodeport-addresses", comma_list, (), "addresses"),
]
PFLAG = CommandLine("kubeproxy", "", FLAGS)
GO = CommandLine("flanneld", "", FLAGS, Style.GO)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--v=4"], "v", 4),
        (["--v", "4"], "v", 4),
        (["-v=4"], "v", 4),
        (["-v4"], "v", 4),
        (["-v", "4"], "v", 4),
        (["--masquerade-all"], "masquerade-all", True),
        (["--masquerade_all=f"], "masquerade-all", False),
        (["--mode", "ipvs"], "proxy-mode", "ipvs"),
        (["--proxy-mode=ipvs"], "proxy-mode", "ipvs"),
        (["--sync-period=1m30s"], "sync-period", 90.0),
        (["--sync-period=1.5h"], "sync-period", 5400.0),
        (["--sync-period=0"], "sync-period", 0.0),
        (["--nodeport-addresses=10.0.0.0/8, ::/0"], "nodeport-addresses", ("10.0.0.0/8", "::/0")),
        ([], "sync-period", 30.0),
    ],
)
def test_pflag_takes(argv: list[str], name: str, value: object) -> None:
    assert PFLAG.parse(argv)[name] == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--masq"], "unknown flag: --masq"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-v"], "flag needs an argument: -v"),
        (["--masquerade-all", "false"], "unexpected argument: 'false'"),
        (["--masquerade-all=yes"], 'strconv.ParseBool: parsing "yes": invalid syntax'),
        (["--sync-period=5"], 'time: missing unit in duration "5"'),
        (["--sync-period=5 minutes"], 'time: invalid duration "5 minutes"'),
        (["--sync-period=2562048h"], 'time: invalid duration "2562048h"'),
        (["--v=four"], 'invalid argument "four" for "--v" flag'),
    ],
)
def test_pflag_refuses(argv: list[str], message: str) -> None:
    with pytest.raises(FlagError) as refused:
        PFLAG.parse(argv)
    assert message in str(refused.value)


@pytest.mark.parametrize("word", ["-sync-period=5s", "--sync-period=5s"])
def test_go_takes_one_dash_or_two(word: str) -> None:
    assert GO.parse([word])["sync-period"] == 5.0


def test_go_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        GO.parse_or_exit(["-nope"], check=dict)
    assert ended.value.code == 2
    assert "flag provided but not defined: -nope" in capsys.readouterr().err


def test_help_names_every_flag_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        PFLAG.parse(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"-{flag.name}" in text for flag in FLAGS)
    assert "(default 30)" in text
    for layout in (
        "  -v int",
        "  --proxy-mode, --mode string",
        "  --masquerade-all   ",
        "  --nodeport-addresses list",
    ):
        assert layout in text
    assert "(default )" not in text
