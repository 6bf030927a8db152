"""clusterdns' command line: Go's flag grammar, and one clear line for what cannot start."""

from pathlib import Path

import pytest

from dns.cli import main

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("argv", [["-version"], ["--version"], ["-version=true"]])
def test_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("clusterdns-")


def test_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-plugins"]) == 0
    assert "  dns.kubernetes\n" in capsys.readouterr().out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "--dns.port" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["-florp"], ["-dns.port", "x"], ["-dns.port=70000"], ["-conf"], ["word"]])
def test_a_wrong_command_line_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err


def test_a_missing_or_bad_corefile_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "Corefile"
    assert main(["-conf", str(path)]) == 1
    assert capsys.readouterr().err == f"loading Corefile {path}: no such file; name one with -conf\n"
    assert main(["-conf", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"loading Corefile {tmp_path}: no regular file; name one with -conf\n"
    path.write_text(".:53 {\n florp\n}\n")
    assert main(["-conf", str(path), "-dns.port", "1053"]) == 1
    assert capsys.readouterr().err == f"{path}:2 - Error during parsing: Unknown directive 'florp'\n"
    path.write_text("# nothing\n")
    assert main(["-conf", str(path)]) == 1
    assert "no server block" in capsys.readouterr().err
