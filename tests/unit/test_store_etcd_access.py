"""The flags for etcd, of the API server and of flanneld: what cannot work is one line at the start."""

from pathlib import Path

import pytest

from flannel.config import make_config
from flannel.flags import COMMAND_LINE
from kubeproxy.apiserver import cli
from kubeproxy.flags import FlagError
from kubeproxy.store.etcd_access import EtcdAccess
from tests.certificates import Authority

pytestmark = pytest.mark.unit

ETCD = "--etcd-servers=https://127.0.0.1:1"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pem")
    authority = Authority(folder)
    certfile, keyfile = authority.issue("one")
    _, other = authority.issue("other")
    junk = folder / "junk"
    junk.write_text("no PEM")
    return {
        "ca": str(authority.cafile),
        "crt": str(certfile),
        "key": str(keyfile),
        "other": str(other),
        "junk": str(junk),
        "gone": str(folder / "gone"),
    }


BAD_FILES = [
    (["cafile={gone}"], "etcd-cafile {gone}: No such file or directory"),
    (["cafile={junk}"], "etcd-cafile {junk}: no PEM certificates"),
    (["certfile={crt}", "keyfile={gone}"], "etcd-keyfile {gone}: No such file or directory"),
    (["certfile={crt}", "keyfile={other}"], "etcd-keyfile {other}: KEY_VALUES_MISMATCH"),
    (["certfile={junk}", "keyfile={key}"], "etcd-certfile {junk} with etcd-keyfile {key}: "),
    (["certfile={crt}"], "etcd-certfile and etcd-keyfile go together"),
    (["username=root"], "etcd-username and etcd-password go together"),
    (["password=secret"], "etcd-username and etcd-password go together"),
]


@pytest.mark.parametrize(("flags", "complaint"), BAD_FILES)
def test_one_line_for_either_program(
    flags: list[str], complaint: str, pem: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [f"--etcd-{flag.format(**pem)}" for flag in flags]
    with pytest.raises(SystemExit) as ended:
        cli.main([ETCD, *argv])
    first = capsys.readouterr().err.splitlines()[0]
    assert (ended.value.code, first.startswith("Error: "), complaint.format(**pem) in first) == (1, True, True)
    assert "secret" not in first
    with pytest.raises(FlagError) as refused:
        make_config(COMMAND_LINE.parse(["-etcd-endpoints=https://127.0.0.1:1", *argv]))
    assert complaint.format(**pem) in str(refused.value)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "one of --store and --etcd-servers is required"),
        ([ETCD, "--store=sqlite:/x"], "two stores for one server"),
        (["--store=sqlite:/x", "--etcd-username=a", "--etcd-password=b"], "the store is sqlite:/x"),
        (["--store=http://127.0.0.1:1", "--etcd-cafile={ca}"], "http://127.0.0.1:1 is no https URL"),
        (["--etcd-servers=127.0.0.1:1"], "'127.0.0.1:1' is no URL"),
        ([ETCD, "--etcd-username=a", "--etcd-password-file={gone}"], "--etcd-password-file {gone}: No such file"),
        ([ETCD, "--etcd-username=a", "--etcd-password-file={junk}", "--etcd-password=b"], "two passwords"),
        ([ETCD, "--etcd-prefix=/x"], "--etcd-prefix is not built yet"),
        ([ETCD, "--etcd-compaction-interval=-1s"], "etcd-compaction-interval"),
        ([ETCD, "--etcd-compaction-interval=5"], "missing unit in duration"),
    ],
)
def test_what_the_api_server_refuses(
    argv: list[str], complaint: str, pem: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([argument.format(**pem) for argument in argv])
    assert complaint.format(**pem) in capsys.readouterr().err.replace("flag -", "--")


def test_what_flanneld_takes(pem: dict[str, str]) -> None:
    flags = ["-etcd-endpoints=https://127.0.0.1:1", f"-etcd-certfile={pem['crt']}", f"-etcd-keyfile={pem['key']}"]
    config = make_config(COMMAND_LINE.parse([*flags, "-etcd-username=u"], {"FLANNELD_ETCD_PASSWORD": "p"}))
    wanted = EtcdAccess(certfile=pem["crt"], keyfile=pem["key"], username="u", password="p")
    assert config.etcd_access == wanted


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(EtcdAccess(username="u", password="secret"))


def test_an_encrypted_key_does_not_ask(tmp_path: Path, pem: dict[str, str]) -> None:
    key = tmp_path / "key"
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    access = EtcdAccess(certfile=pem["crt"], keyfile=str(key))
    with pytest.raises(ValueError, match="etcd-keyfile"):
        access.tls()
