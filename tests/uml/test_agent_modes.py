"""The agent's modes on a kernel that has IPVS: what tests/e2e asks of this machine's own, and a change of mode."""

from tests.agent_bed import NODE_IP, Machine, serve_web
from tests.e2e.test_agent_modes import (  # noqa: F401  (a fixture, and a test that is this kernel's too)
    IPVS,
    asked,
    machines,
    test_auto_serves_in_the_best_mode_and_one_that_the_kernel_has_not_is_refused,
)
from tests.waiting import until


def test_ipvs_mode_takes_over_from_iptables_mode_and_leaves_nothing_of_it(
    machines: tuple[Machine, Machine],  # noqa: F811
) -> None:
    node, peer = machines
    assert not asked(node, IPVS)
    first = node.agent()
    serve_web(node)
    first.terminate()
    assert first.wait(10) == 0
    assert "KUBE-SVC-" in node.rules()
    node.agent("--mode=ipvs")
    # Sets go last.
    until(lambda: "KUBE-6-CLUSTER-IPS" not in node.run("ipset", "list", "-n").stdout, "the old sets are gone")
    rules = node.rules()
    assert "KUBE-SVC-" not in rules
    assert "KUBE-NODEPORTS" not in rules
    assert "KUBE-IPVS-FILTER" in rules
    assert peer.status_of(f"http://{NODE_IP}:30080/") == "200"
    assert node.status_of("http://10.96.7.7/") == "200"
    shown = node.run("kubeproxy", "status")
    assert (shown.returncode, "left by another proxy" in shown.stdout) == (0, False), shown.stdout
    assert "mode ipvs (" in shown.stdout
