"""Kubeconfig files: what is read, what is refused and in which words, and that the official client agrees."""

import base64
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import Configuration
from kubernetes.config import kube_config

from kubeproxy import agent
from kubeproxy.access import find_access
from kubeproxy.clock import ManualClock
from kubeproxy.store.kubeconfig import KubeconfigError, load, paths_of
from tests.certificates import Authority

pytestmark = pytest.mark.unit

with tempfile.TemporaryDirectory() as folder:
    CA = Authority(Path(folder)).cafile.read_bytes()
CA_DATA = base64.b64encode(CA).decode()
SERVER = "https://api.example:6443"


def write(path: Path, cluster: Any = None, user: Any = None, **rest: Any) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "k", "cluster": {"server": SERVER} if cluster is None else cluster}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(content | rest))
    return path


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"server": SERVER}, {"token": "abc"}),
        ({"server": SERVER, "certificate-authority-data": CA_DATA}, {"tokenFile": "token"}),
        ({"server": SERVER, "certificate-authority": "ca.crt"}, {"username": "me", "password": "pa:ss"}),
        ({"server": "http://10.0.0.1:8001"}, {}),
    ],
)
async def test_the_official_client_reads_the_same(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any]
) -> None:
    (tmp_path / "ca.crt").write_bytes(CA)
    (tmp_path / "token").write_text("from-file\n")
    path = write(tmp_path / "config", cluster, user)
    oracle = Configuration()
    kube_config.load_kube_config(str(path), client_configuration=oracle)
    access = find_access(ManualClock(), kubeconfig=str(path))
    assert access is not None
    assert access.server == oracle.host
    identity = await access.credentials.current()
    told = oracle.get_api_key_with_prefix("authorization") or oracle.get_api_key_with_prefix("BearerToken")
    assert identity.headers.get("Authorization") == (told and told.strip())  # it keeps a token file's newline
    if oracle.ssl_ca_cert:
        assert Path(oracle.ssl_ca_cert).read_bytes() == CA
        assert identity.tls is not None
        assert len(identity.tls.get_ca_certs()) == 1


def test_several_files_are_one_and_the_first_to_name_a_thing_wins(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/token").write_text("t")
    one = write(tmp_path / "one", {"server": "https://first"}, users=None)
    two = write(tmp_path / "far/two", {"server": "https://second"}, {"tokenFile": "token"})
    found = load(paths_of(f"{one}:{tmp_path}/missing:{two}"))
    assert found.cluster.server == "https://first"
    assert found.user.token_file == str(tmp_path / "far/token")
    assert found.namespace == "ns"


def test_a_context_may_be_named_and_a_server_overridden(tmp_path: Path) -> None:
    contexts = [{"name": "other", "context": {"cluster": "k", "user": "u"}}]
    path = write(tmp_path / "config", contexts=contexts, users=[{"name": "u", "user": {"token": "t"}}])
    found = load([path], context="other", server="https://elsewhere")
    assert (found.cluster.server, found.user.token, found.namespace) == ("https://elsewhere", "t", "default")


EXEC = {"command": "get-token", "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"current-context": ""}, "current-context is not set (contexts: c)"),
        ({"current-context": "gone"}, 'context "gone" does not exist'),
        ({"clusters": []}, 'cluster "k" does not exist'),
        ({"users": [{"name": "x", "user": {}}]}, 'user "u" does not exist'),
        ({"clusters": 7}, "Expected `array | null`, got `int` - at `$.clusters`"),
        ({"clusters": [{"name": "k", "cluster": {"server": 7}}]}, "`$.clusters[0].cluster.server`"),
        ({"cluster": {"server": ""}}, 'no server found for cluster "k"'),
        ({"cluster": {"server": "api.example"}}, "cluster.server: 'api.example' is no URL"),
        ({"cluster": {"server": SERVER, "certificate-authority": "gone"}}, "gone: No such file or directory"),
        ({"cluster": {"server": SERVER, "certificate-authority-data": "#"}}, "authority-data: not base64"),
        (
            {
                "cluster": {
                    "server": SERVER,
                    "certificate-authority-data": CA_DATA,
                    "insecure-skip-tls-verify": True,
                }
            },
            "with the insecure flag is not allowed",
        ),
        ({"cluster": {"server": SERVER, "proxy-url": "socks5://x:1"}}, "cluster.proxy-url: 'socks5://x:1': only"),
        ({"user": {"token": "a", "username": "b"}}, "more than one authentication method found: token, basicAuth"),
        ({"user": {"client-certificate-data": CA_DATA}}, "client-certificate and client-key must both be given"),
        ({"user": {"tokenFile": "gone"}}, "user.tokenFile: "),
        ({"user": {"auth-provider": {"name": "gcp"}}}, "user.auth-provider: not supported"),
        ({"user": {"as": "admin"}}, "user.as: impersonation is not supported"),
        ({"user": {"exec": EXEC | {"apiVersion": "v7"}}}, 'exec plugin: invalid apiVersion "v7"'),
        ({"user": {"exec": EXEC | {"interactiveMode": ""}}}, "interactiveMode: must be specified"),
        ({"user": {"exec": EXEC | {"interactiveMode": "Always"}}}, "cannot support interactive mode"),
        ({"user": {"exec": {"command": "x"}}}, "missing required field `apiVersion` - at `$.users[0].user.exec`"),
    ],
)
def test_what_cannot_work_is_refused_by_its_field(tmp_path: Path, parts: Any, complaint: str) -> None:
    path = write(tmp_path / "config", **parts)
    with pytest.raises(KubeconfigError) as refused:
        load([path])
    assert complaint in str(refused.value)
    assert str(refused.value).startswith(f"kubeconfig {path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", "\x00", "&a [*a", "7", "!!python/object:os.system {}"])
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeconfigError, match=r"kubeconfig .*config: "):
        load([path])


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match="No such file or directory"):
        load([tmp_path / "gone"])


def test_the_agent_ends_at_once_when_its_kubeconfig_cannot_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(["--kubeconfig=/no/such"]) == 1
    assert capsys.readouterr().err.endswith("Error: kubeconfig /no/such: No such file or directory\n")


async def test_in_a_cluster_it_is_the_service_account(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sa-token")
    (tmp_path / "ca.crt").write_bytes(CA)
    (tmp_path / "namespace").write_text("kube-system")
    inside = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = find_access(ManualClock(), environment=inside, directory=tmp_path)
    assert access is not None
    assert (access.server, access.namespace) == ("https://[fd00::1]:443", "kube-system")
    assert (await access.credentials.current()).headers == {"Authorization": "Bearer sa-token"}
    (tmp_path / "token").write_text("rotated")
    assert (await access.credentials.current()).headers == {"Authorization": "Bearer rotated"}
    (tmp_path / "token").unlink()
    with pytest.raises(KubeconfigError, match="in-cluster configuration"):
        find_access(ManualClock(), environment=inside, directory=tmp_path)


def test_neither_flag_and_no_cluster_is_the_programs_own_default() -> None:
    assert find_access(ManualClock(), environment={}) is None
    access = find_access(ManualClock(), master="https://m", environment={})
    assert access is not None
    assert access.server == "https://m"
