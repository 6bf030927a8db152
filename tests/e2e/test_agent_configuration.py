"""The agent with a configuration file, as a kubeadm cluster's kube-proxy DaemonSet starts it."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.agent_bed import API, BIN, NODE_IP, Machine, serve_web, two_machines
from tests.waiting import until

pytestmark = pytest.mark.e2e

KUBEADM = Path(__file__).parents[1] / "manifests" / "kubeadm-kube-proxy.conf"
KUBECONFIG = f"""
apiVersion: v1
kind: Config
clusters: [{{name: default, cluster: {{server: "{API}"}}}}]
contexts: [{{name: default, context: {{cluster: default, namespace: default, user: default}}}}]
current-context: default
users: [{{name: default, user: {{token: of-the-service-account}}}}]
"""


class ConfigMap:
    """A mounted ConfigMap: its files are links into a directory that kubelet swaps as a whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._swaps = 0
        self.change({"config.conf": KUBEADM.read_text().replace("/var/lib/kube-proxy", str(directory))})
        for name in ("config.conf", "kubeconfig.conf"):
            (directory / name).symlink_to(f"..data/{name}")

    def change(self, files: dict[str, str]) -> None:
        self._swaps += 1
        version = self.directory / f"..{self._swaps}"
        if self._swaps == 1:
            version.mkdir()
        else:
            shutil.copytree(self.directory / "..data", version)
        for name, content in {"kubeconfig.conf": KUBECONFIG, **files}.items():
            (version / name).write_text(content)
        (self.directory / "..data_tmp").symlink_to(version.name)
        (self.directory / "..data_tmp").rename(self.directory / "..data")

    @property
    def config(self) -> Path:
        return self.directory / "config.conf"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with two_machines(tmp_path) as both:
        yield both


@pytest.fixture
def mounted(tmp_path: Path) -> ConfigMap:
    return ConfigMap(tmp_path / "kube-proxy")


def test_a_kubeadm_clusters_configmap_starts_it_unchanged(
    machines: tuple[Machine, Machine], mounted: ConfigMap, tmp_path: Path
) -> None:
    node, peer = machines
    store = f"--store=sqlite:{tmp_path / 'cluster.db'}"
    node.start(str(BIN / "kubeproxy"), "apiserver", store, "--bind-address=127.0.0.1")
    command = (str(BIN / "kubeproxy"), f"--config={mounted.config}", "--hostname-override=node")
    agent = node.start(*command)
    serve_web(node)
    until(lambda: peer.status_of(f"http://{NODE_IP}:30080/") == "200", "the node port answers")
    assert node.status_of("http://127.0.0.1:10256/healthz") == "200"

    served = json.loads(node.run("curl", "-s", "http://127.0.0.1:10249/configz").stdout)["kubeproxy.config.k8s.io"]
    assert served["clientConnection"]["kubeconfig"] == f"{mounted.directory}/kubeconfig.conf"
    assert served["iptables"]["minSyncPeriod"] == "0s"
    assert "hostname-override=node" in node.run("curl", "-s", "http://127.0.0.1:10249/flagz").stdout

    # kubelet swaps the ConfigMap; the agent ends, its supervisor starts it again, and Services never stop.
    # (An oom_score_adj below the parent's takes a capability that a test's container may lack.)
    changed = mounted.config.read_text().replace("oomScoreAdj: null", "oomScoreAdj: 500")
    mounted.change({"config.conf": changed.replace('healthzBindAddress: ""', "healthzBindAddress: 0.0.0.0:10266")})
    assert agent.wait(10) == 1
    assert "Error: content of the proxy server's configuration file was updated" in node.log_of(agent)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    agent = node.start(*command)
    until(lambda: node.status_of("http://127.0.0.1:10266/healthz") == "200", "the new file counts")
    assert Path(f"/proc/{agent.pid}/oom_score_adj").read_text().strip() == "500"

    # The kubeconfig beside it is no part of what is watched.
    mounted.change({"kubeconfig.conf": KUBECONFIG + "# renewed\n"})
    with pytest.raises(Exception, match="timed out"):
        agent.wait(3)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0


def test_a_file_with_fields_of_another_version_starts_and_one_with_errors_does_not(
    machines: tuple[Machine, Machine], mounted: ConfigMap, tmp_path: Path
) -> None:
    node, _ = machines
    written = tmp_path / "written.yaml"
    config = mounted.config.read_text()
    command = ("kubeproxy", f"--config={mounted.config}", f"--write-config-to={written}")

    mounted.change({"config.conf": config + "udpIdleTimeout: 250ms\n"})
    done = node.run(*command)
    assert done.returncode == 0, done.stderr
    assert (
        'Using lenient decoding as strict decoding failed: strict decoding error: unknown field "udpIdleTimeout"'
        in (done.stderr)
    )
    complete = yaml.safe_load(written.read_text())
    assert complete["iptables"]["syncPeriod"] == "30s"
    assert node.run("kubeproxy", f"--config={written}", f"--write-config-to={written}.2").returncode == 0
    assert yaml.safe_load(Path(f"{written}.2").read_text()) == complete

    wrong = config.replace("masqueradeBit: null", "masqueradeBit: 40").replace(
        "oomScoreAdj: null", "oomScoreAdj: 2000"
    )
    mounted.change({"config.conf": wrong})
    refused = node.run("kubeproxy", f"--config={mounted.config}")
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        "Error: [KubeProxyConfiguration.iptables.masqueradeBit: Invalid value: 40: "
        "must be within the range [0, 31], "
        "KubeProxyConfiguration.oomScoreAdj: Invalid value: 2000: must be within the range [-1000, 1000]]"
    )


def test_a_configuration_that_cannot_be_written_is_told(machines: tuple[Machine, Machine]) -> None:
    node, _ = machines
    refused = node.run("kubeproxy", "--write-config-to=/no/such/file")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "Error: [Errno 2] No such file or directory: '/no/such/file'" in refused.stderr


def test_init_only_sets_the_kernels_parameters_and_ends(machines: tuple[Machine, Machine]) -> None:
    node, _ = machines
    route_localnet = ("sysctl", "-n", "net.ipv4.conf.all.route_localnet")
    # A new namespace has the machine's own value.
    node.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=0")
    assert node.run("kubeproxy", "--init-only", "--nodeport-addresses=primary").returncode == 0
    assert node.run(*route_localnet).stdout.strip() == "0"
    done = node.run("kubeproxy", "--init-only")
    assert done.returncode == 0, done.stderr
    assert node.run(*route_localnet).stdout.strip() == "1"
    assert "KUBE-" not in node.rules()


HOLD_HEALTHZ = "import signal, socket; held = socket.create_server(('127.0.0.1', 10256)); signal.pause()"


def test_bind_address_hard_fail_ends_it_when_the_port_is_taken(machines: tuple[Machine, Machine]) -> None:
    node, _ = machines
    node.start(sys.executable, "-c", HOLD_HEALTHZ)
    held = "import socket; socket.create_connection(('127.0.0.1', 10256))"
    until(lambda: node.run(sys.executable, "-c", held).returncode == 0, "somebody listens at the port")
    agent = node.run("kubeproxy", f"--data-dir={node.directory}", "--bind-address-hard-fail")
    assert agent.returncode == 1
    assert "Error: cannot listen on " in agent.stderr
    assert "Traceback" not in agent.stderr


def test_a_cluster_cidr_of_the_family_that_is_not_served_ends_it(machines: tuple[Machine, Machine]) -> None:
    node, _ = machines
    node.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    agent = node.agent("--cluster-cidr=fd00::/56")
    assert agent.wait(20) == 1
    log = node.log_of(agent)
    assert "Error: cluster is IPv4-only but clusterCIDRs contains only IPv6 addresses" in log
    assert "KUBE-SERVICES" not in node.rules()
