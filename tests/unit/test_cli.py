"""The `kubeproxy` command without and with a subcommand's name."""

import pytest

from kubeproxy import __version__, cli

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("word", "says"), [("help", "usage: kubeproxy [flags]"), ("version", __version__)])
def test_help_and_version_may_be_words(word: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = cli.main([word])
    except SystemExit as end:
        status = int(str(end.code))
    assert status == 0
    assert says in capsys.readouterr().out


def test_an_unknown_command_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stauts"]) == 1
    message = capsys.readouterr().err
    assert "unknown command 'stauts'" in message
    assert all(name in message for name in cli.COMMANDS)
