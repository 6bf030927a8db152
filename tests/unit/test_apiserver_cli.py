"""`kubeproxy apiserver`: a file or an address that it cannot use is one line that names the flag or the file."""

from pathlib import Path

import pytest

from kubeproxy.apiserver.cli import main
from tests.certificates import Authority

pytestmark = pytest.mark.unit

STORE = "--store=sqlite::memory:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    authority = Authority(made)
    authority.issue("one")
    authority.issue("other")
    (made / "junk").write_text("no PEM")
    return made


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--token-auth-file={}/gone"], "token-auth-file {}/gone: No such file or directory"),
        (["--token-auth-file={}"], "token-auth-file {}: Is a directory"),
        (["--client-users-file={}", "--listen-client-urls=http://127.0.0.1:0"], "client-users-file {}: Is a dir"),
        (["--cert-dir={}/junk"], "cert-dir {}/junk: "),
        (["--cert-dir={}/pki", "--client-ca-file={}/gone"], "client CA {}/gone: No such file or directory"),
        (["--cert-dir={}/pki", "--client-ca-file={}/junk"], "client CA {}/junk: no PEM certificates"),
        (["--cert-dir={}/pki", "--write-kubeconfig={}"], "write-kubeconfig {}: Is a directory"),
        (["--tls-cert-file={}/gone", "--tls-private-key-file={}/one.key"], "serving certificate {}/gone: No such"),
        (
            ["--tls-cert-file={}/one.crt", "--tls-private-key-file={}/junk"],
            "certificate {}/one.crt with key {}/junk",
        ),
        (["--tls-cert-file={}/one.crt", "--tls-private-key-file={}/other.key"], "KEY_VALUES_MISMATCH"),
    ],
)
def test_what_cannot_be_used_is_named(
    argv: list[str], complaint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([STORE, "--port=0", *(flag.replace("{}", str(folder)) for flag in argv)]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("Error: ")
    assert complaint.replace("{}", str(folder)) in last


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([STORE, "--service-cluster-ip-range=x"], "service-cluster-ip-range 'x': "),
        (["kubeconfig", "--server=https://a:1"], "--user is required"),
        (["kubeconfig", "--user=a"], "--server is required"),
        (["kubeconfig", "--user=a", "--server=a:1"], "--server 'a:1' is no URL such as https://HOST:PORT"),
    ],
)
def test_a_flag_that_cannot_be_read(argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert (ended.value.code, complaint in capsys.readouterr().err.splitlines()[0]) == (1, True)
