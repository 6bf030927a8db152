"""What becomes of `--mode ipvs` and `--mode auto` on this machine's own kernel, whatever it has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_bed import BIN, NODE_IP, Machine, serve_web, two_machines
from tests.waiting import until

pytestmark = pytest.mark.e2e

ASK = "from kubeproxy.dataplane.ipvs.needs import missing\n" + (
    "from kubeproxy.kernel.exec import SystemExec\n"
    "from kubeproxy.kernel.features import Features\n"
    "from kubeproxy.kernel.ipvs import Ipvs\n"
    "print(*[need.module for need in missing(Features(SystemExec(), Ipvs()), 'rr')])\n"
)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with two_machines(tmp_path) as both:
        yield both


def lacking(node: Machine) -> list[str]:
    """Return the modules that ipvs mode misses, asked inside the namespace."""
    asked = node.run(str(BIN / "python"), "-c", ASK)
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.split()


def test_auto_serves_in_the_best_mode_and_ipvs_is_refused_where_the_kernel_has_it_not(
    machines: tuple[Machine, Machine],
) -> None:
    node, peer = machines
    modules = lacking(node)
    if modules:
        refused = node.run(str(BIN / "kubeproxy"), "--mode=ipvs", f"--data-dir={node.directory / 'none'}")
        assert refused.returncode == 1
        (complaint,) = [line for line in refused.stderr.splitlines() if line.startswith("Error: ")]
        assert re.match("Error: mode ipvs cannot run here: this kernel has no ", complaint)
        assert f"modprobe -a {' '.join(modules)}" in complaint
        # It ended before it changed anything.
        assert "KUBE" not in node.rules()
        assert not (node.directory / "none").exists()
    mode = "iptables" if modules else "ipvs"
    agent = node.agent("--mode=auto")
    serve_web(node)
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    assert node.run("curl", "-s", "http://127.0.0.1:10249/proxyMode").stdout == mode
    assert f"node node, mode {mode} (" in node.run("kubeproxy", "status").stdout
    until(lambda: f"mode auto: {mode}" in node.log_of(agent), "the log says which mode it is")
    assert ("mode auto: not ipvs: this kernel has no" in node.log_of(agent)) is bool(modules)
