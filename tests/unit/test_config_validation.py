"""Validation: upstream's messages, each with the path of the field in the file."""

from typing import Any

import pytest
import yaml

from kubeproxy.config.decode import decode, resolved
from kubeproxy.config.encode import as_object
from kubeproxy.config.flags import DEFAULTS
from kubeproxy.config.gates import ELSEWHERE, GATES, complaint, enabled
from kubeproxy.config.validation import aggregate, validate

pytestmark = pytest.mark.unit

NOT_NEGATIVE = "must be greater than or equal to 0"
PAIR = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"


def errors_of(changes: dict[str, Any]) -> list[str]:
    given = {**as_object(DEFAULTS), **changes}
    found = validate(resolved(decode(yaml.safe_dump(given).encode()).configuration))
    assert all(error.startswith("KubeProxyConfiguration.") for error in found)
    return [error.removeprefix("KubeProxyConfiguration.") for error in found]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "nftables"},
        {"mode": "ipvs", "ipvs": {"scheduler": "mh"}},
        {"bindAddress": "010.0.0.1"},
        {"healthzBindAddress": "[::1]:1"},
        {"clusterCIDR": "10.244.0.0/16"},
        {"clusterCIDR": "fd00::/56,10.244.0.0/16"},
        {"clusterCIDR": "nonsense", "detectLocalMode": "NodeCIDR"},
        {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"}},
        {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "cali"}},
        {"nodePortAddresses": ["primary"]},
        {"nodePortAddresses": ["10.0.0.0/8", "::/0"]},
        {"portRange": "300-2000"},
        {"showHiddenMetricsForVersion": "1.35"},
        {"oomScoreAdj": -1000},
        {"iptables": {"masqueradeBit": 31, "syncPeriod": "1s", "minSyncPeriod": "1s"}},
        # Another mode's block is not looked at.
        {
            "ipvs": {"excludeCIDRs": ["x"], "tcpTimeout": "-1s", "syncPeriod": "-1s"},
            "nftables": {"masqueradeBit": 99},
        },
        {"featureGates": {"AllAlpha": True, "LoggingAlphaOptions": False, "NFTablesProxyMode": True}},
        {"featureGates": {"LoggingAlphaOptions": True}, "logging": {"options": {"json": {"splitStream": True}}}},
        {"logging": {"vmodule": [{"filePattern": "a*", "verbosity": 9}]}},
    ],
)
def test_takes(changes: dict[str, Any]) -> None:
    assert errors_of(changes) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"featureGates": {"X": True}}, 'featureGates: Invalid value: {"X":true}: unrecognized feature gate: X'),
        (
            {"featureGates": {"WinDSR": False}},
            'featureGates: Invalid value: {"WinDSR":false}: cannot set feature gate WinDSR to false, '
            "feature is locked to true",
        ),
        (
            {"iptables": {"masqueradeBit": -1}},
            "iptables.masqueradeBit: Invalid value: -1: must be within the range [0, 31]",
        ),
        (
            {"mode": "nftables", "nftables": {"masqueradeBit": 32}},
            "nftables.masqueradeBit: Invalid value: 32: must be within the range [0, 31]",
        ),
        ({"iptables": {"syncPeriod": "-30s", "minSyncPeriod": "-40s"}}, ""),
        (
            {"iptables": {"syncPeriod": "1s", "minSyncPeriod": "2s"}},
            'iptables.syncPeriod: Invalid value: "2s": must be greater than or equal to '
            "KubeProxyConfiguration.iptables.minSyncPeriod",
        ),
        (
            {"mode": "ipvs", "ipvs": {"minSyncPeriod": "-1s"}},
            f'ipvs.minSyncPeriod: Invalid value: "-1s": {NOT_NEGATIVE}',
        ),
        (
            {"mode": "ipvs", "ipvs": {"tcpTimeout": "-1s"}},
            f'ipvs.tcpTimeout: Invalid value: "-1s": {NOT_NEGATIVE}',
        ),
        (
            {"mode": "ipvs", "ipvs": {"tcpFinTimeout": "-1s"}},
            f'ipvs.tcpFinTimeout: Invalid value: "-1s": {NOT_NEGATIVE}',
        ),
        (
            {"mode": "ipvs", "ipvs": {"udpTimeout": "-1s"}},
            f'ipvs.udpTimeout: Invalid value: "-1s": {NOT_NEGATIVE}',
        ),
        (
            {"mode": "ipvs", "ipvs": {"excludeCIDRs": ["10.0.0.0/8", "x"]}},
            'ipvs.excludeCIDRs[1]: Invalid value: "x": must be a valid CIDR',
        ),
        ({"conntrack": {"maxPerCore": -1}}, f"conntrack.maxPerCore: Invalid value: -1: {NOT_NEGATIVE}"),
        ({"conntrack": {"min": -1}}, f"conntrack.min: Invalid value: -1: {NOT_NEGATIVE}"),
        *(
            ({"conntrack": {name: "-1ms"}}, f'conntrack.{name}: Invalid value: "-1ms": {NOT_NEGATIVE}')
            for name in ("tcpEstablishedTimeout", "tcpCloseWaitTimeout", "udpTimeout", "udpStreamTimeout")
        ),
        ({"oomScoreAdj": 1001}, "oomScoreAdj: Invalid value: 1001: must be within the range [-1000, 1000]"),
        (
            {"mode": "kernelspace"},
            'mode: Invalid value: "kernelspace": must be iptables, ipvs, nftables, auto '
            "(the best that this node can run) or blank (iptables)",
        ),
        ({"clientConnection": {"burst": -1}}, f"clientConnection.burst: Invalid value: -1: {NOT_NEGATIVE}"),
        ({"configSyncPeriod": "-1m"}, 'configSyncPeriod: Invalid value: "-1m0s": must be greater than 0'),
        (
            {"bindAddress": "10.0.0.1:80"},
            'bindAddress: Invalid value: "10.0.0.1:80": not a valid textual representation of an IP address',
        ),
        ({"healthzBindAddress": "node1"}, 'healthzBindAddress: Invalid value: "node1": must be IP:port'),
        ({"healthzBindAddress": "node1:1"}, 'healthzBindAddress: Invalid value: "node1": must be a valid IP'),
        ({"metricsBindAddress": "1.2.3.4:x"}, 'metricsBindAddress: Invalid value: "x": must be a valid port'),
        (
            {"metricsBindAddress": "1.2.3.4:65536"},
            'metricsBindAddress: Invalid value: "65536": must be a valid port',
        ),
        ({"portRange": "a-b"}, 'portRange: Invalid value: "a-b": must be a valid port range (e.g. 300-2000)'),
        (
            {"nodePortAddresses": ["10.0.0.0/8", "primary"]},
            "nodePortAddresses[1]: Invalid value: \"primary\": can't use both 'primary' and CIDRs",
        ),
        (
            {"nodePortAddresses": ["primary", "10.0.0.0/8"]},
            "nodePortAddresses[0]: Invalid value: \"primary\": can't use both 'primary' and CIDRs",
        ),
        (
            {"nodePortAddresses": ["10.0.0.1"]},
            'nodePortAddresses[0]: Invalid value: "10.0.0.1": must be a valid CIDR',
        ),
        (
            {"showHiddenMetricsForVersion": "1.2"},
            'showHiddenMetricsForVersion: Invalid value: "1.2": --show-hidden-metrics-for-version must be omitted '
            "or have the value '1.35'. Only the previous minor version is allowed",
        ),
        (
            {"detectLocalMode": "Guess"},
            'detectLocalMode: Unsupported value: "Guess": supported values: "ClusterCIDR", "NodeCIDR", '
            '"BridgeInterface", "InterfaceNamePrefix", ""',
        ),
        (
            {"detectLocalMode": "BridgeInterface"},
            'detectLocal.bridgeInterface: Invalid value: "": must not be empty',
        ),
        (
            {"detectLocalMode": "InterfaceNamePrefix"},
            'detectLocal.interfaceNamePrefix: Invalid value: "": must not be empty',
        ),
        (
            {"clusterCIDR": "10.0.0.0"},
            'clusterCIDR: Invalid value: "10.0.0.0": must be a valid CIDR block '
            "(e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
        ),
        (
            {"clusterCIDR": "10.0.0.0/8,11.0.0.0/8"},
            f'clusterCIDR: Invalid value: ["10.0.0.0/8","11.0.0.0/8"]: {PAIR}',
        ),
        (
            {"clusterCIDR": "10.0.0.0/8,fd00::/8,11.0.0.0/8"},
            f'clusterCIDR: Invalid value: ["10.0.0.0/8","fd00::/8","11.0.0.0/8"]: {PAIR}',
        ),
        ({"logging": {"format": "xml"}}, 'logging.format: Invalid value: "xml": Unsupported log format'),
        ({"logging": {"verbosity": 2**31}}, "logging.verbosity: Invalid value: 2147483648: Must be <= 2147483647"),
        (
            {"logging": {"format": "json", "vmodule": [{"filePattern": "a"}]}},
            "logging.vmodule: Forbidden: Only supported for text log format",
        ),
        (
            {"logging": {"vmodule": [{"verbosity": 1}]}},
            "logging.vmodule[0]: Required value: File pattern must not be empty",
        ),
        (
            {"logging": {"vmodule": [{"filePattern": "a=b"}]}},
            'logging.vmodule[0]: Invalid value: "a=b": File pattern must not contain equal sign or comma',
        ),
        (
            {"logging": {"options": {"json": {"infoBufferSize": "1Ki"}}}},
            "logging.options.json.infoBufferSize: Forbidden: Feature LoggingAlphaOptions is disabled",
        ),
    ],
)
def test_refuses(changes: dict[str, Any], error: str) -> None:
    found = errors_of(changes)
    if error:
        assert found == [error]
    else:
        assert [each.partition(":")[0] for each in found] == ["iptables.syncPeriod", "iptables.minSyncPeriod"]


def test_all_errors_are_told_in_one_line() -> None:
    assert aggregate(["a"]) == "a"
    assert aggregate(["a", "b"]) == "[a, b]"
    found = errors_of({"mode": "x", "oomScoreAdj": 5000, "configSyncPeriod": "-1s", "logging": {"format": "y"}})
    assert [each.partition(":")[0] for each in found] == [
        "oomScoreAdj",
        "mode",
        "configSyncPeriod",
        "logging.format",
    ]


def test_gates_are_known_once_and_have_upstreams_defaults() -> None:
    assert not set(GATES) & ELSEWHERE
    assert enabled({}, "AllowServiceExternalIPs")
    assert not enabled({"AllowServiceExternalIPs": False}, "AllowServiceExternalIPs")
    assert not enabled({}, "LoggingAlphaOptions")
    assert enabled({"AllAlpha": True}, "LoggingAlphaOptions")
    assert not enabled({"AllAlpha": True, "LoggingAlphaOptions": False}, "LoggingAlphaOptions")
    assert all(complaint({name: gate.default}) == "" for name, gate in GATES.items())
