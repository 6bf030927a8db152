"""The agent's command line: defaults, and what is refused before anything starts."""

import pytest

from kubeproxy.options import parse

pytestmark = pytest.mark.unit


def test_defaults_are_kube_proxys() -> None:
    options = parse(["--hostname-override=Node1"])
    assert options.node_name == "node1"
    assert options.healthz_address == ("0.0.0.0", 10256)
    assert options.metrics_address == ("127.0.0.1", 10249)
    assert (options.sync_period, options.masquerade_bit, options.localhost_nodeports) == (30.0, 14, True)


def test_an_empty_address_turns_a_server_off() -> None:
    assert parse(["--metrics-bind-address="]).metrics_address is None


def test_proxy_mode_is_mode() -> None:
    assert parse(["--proxy-mode=iptables"]).mode == "iptables"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--mode=ipvs", "must be one of auto, iptables"),
        ("--master=10.0.0.1:8001", "must be https://HOST:PORT"),
        ("--master=http://", "must be https://HOST:PORT"),
        ("--hostname-override= ", "empty hostname-override is invalid"),
        ("--cluster-cidr=10.0.0.0/33", "invalid CIDR address"),
        ("--iptables-masquerade-bit=32", "must be within the range [0, 31]"),
        ("--iptables-sync-period=0s", "must be greater than 0"),
        ("--iptables-min-sync-period=1h", "between 0 and iptables-sync-period"),
        ("--healthz-bind-address=0.0.0.0:0", "between 1 and 65535"),
        ("--metrics-bind-address=no..host:1", '"no..host": must be a valid IP'),
        ("--api-bind-address=:8001", "must be a valid IP"),
        ("--api-bind-address=0.0.0.0:8001", "must be a loopback address"),
        ("--service-cluster-ip-range=10.96.0.0", "10.96.0.0"),
        ("--service-node-port-range=9-1", "9-1"),
        ("--logging-format=xml", "must be one of text, json"),
        ("--config=/etc/kube-proxy.conf", "unknown flag: --config"),
    ],
)
def test_bad_values_end_the_start(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([argument])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
