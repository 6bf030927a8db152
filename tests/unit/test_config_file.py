"""KubeProxyConfiguration files: what is read, what is made up, what is minded and what is refused."""

from typing import Any

import pytest
import yaml

from kubeproxy.config.decode import Decoded, DecodeError, decode
from kubeproxy.config.encode import as_object, as_yaml, configz

pytestmark = pytest.mark.unit

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

UPSTREAM: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "bindAddress": "0.0.0.0",
    "bindAddressHardFail": False,
    "clientConnection": {
        "acceptContentTypes": "",
        "burst": 10,
        "contentType": "application/vnd.kubernetes.protobuf",
        "kubeconfig": "",
        "qps": 5,
    },
    "clusterCIDR": "",
    "configSyncPeriod": "15m0s",
    "conntrack": {
        "maxPerCore": 32768,
        "min": 131072,
        "tcpBeLiberal": False,
        "tcpCloseWaitTimeout": "1h0m0s",
        "tcpEstablishedTimeout": "24h0m0s",
        "udpStreamTimeout": "0s",
        "udpTimeout": "0s",
    },
    "detectLocal": {"bridgeInterface": "", "interfaceNamePrefix": ""},
    "detectLocalMode": "",
    "enableProfiling": False,
    "healthzBindAddress": "0.0.0.0:10256",
    "hostnameOverride": "",
    "iptables": {
        "localhostNodePorts": True,
        "masqueradeAll": False,
        "masqueradeBit": 14,
        "minSyncPeriod": "0s",
        "syncPeriod": "30s",
    },
    "ipvs": {
        "excludeCIDRs": None,
        "minSyncPeriod": "0s",
        "scheduler": "",
        "strictARP": False,
        "syncPeriod": "30s",
        "tcpFinTimeout": "0s",
        "tcpTimeout": "0s",
        "udpTimeout": "0s",
    },
    "logging": {
        "flushFrequency": "5s",
        "format": "text",
        "options": {
            "json": {"infoBufferSize": "0", "splitStream": False},
            "text": {"infoBufferSize": "0", "splitStream": False},
        },
        "verbosity": 0,
    },
    "metricsBindAddress": "127.0.0.1:10249",
    "mode": "",
    "nftables": {"masqueradeAll": False, "masqueradeBit": 14, "minSyncPeriod": "0s", "syncPeriod": "30s"},
    "nodePortAddresses": None,
    "oomScoreAdj": -999,
    "portRange": "",
    "showHiddenMetricsForVersion": "",
    "winkernel": {
        "enableDSR": False,
        "forwardHealthCheckVip": False,
        "networkName": "",
        "rootHnsEndpointName": "",
        "sourceVip": "",
    },
}
"""Every field and its default (reference/kube-proxy.md §4.2; upstream's testdata of its defaulted empty file)."""

FULL: dict[str, Any] = {
    "featureGates": {"AllowServiceExternalIPs": False},
    "bindAddress": "fd00::1",
    "bindAddressHardFail": True,
    "clientConnection": {
        "acceptContentTypes": "a",
        "burst": 1,
        "contentType": "b",
        "kubeconfig": "c",
        "qps": 2.5,
    },
    "clusterCIDR": "10.0.0.0/8",
    "configSyncPeriod": "1m0s",
    "conntrack": {
        "maxPerCore": 0,
        "min": 0,
        "tcpBeLiberal": True,
        "tcpCloseWaitTimeout": "0s",
        "tcpEstablishedTimeout": "1ms",
        "udpStreamTimeout": "1h30m0s",
        "udpTimeout": "1.5s",
    },
    "detectLocal": {"bridgeInterface": "d", "interfaceNamePrefix": "e"},
    "detectLocalMode": "BridgeInterface",
    "enableProfiling": True,
    "healthzBindAddress": "192.0.2.1:1",
    "hostnameOverride": "f",
    "iptables": {
        "localhostNodePorts": False,
        "masqueradeAll": True,
        "masqueradeBit": 0,
        "minSyncPeriod": "2s",
        "syncPeriod": "3s",
    },
    "ipvs": {
        "excludeCIDRs": ["10.0.0.0/8"],
        "minSyncPeriod": "4s",
        "scheduler": "g",
        "strictARP": True,
        "syncPeriod": "5s",
        "tcpFinTimeout": "6s",
        "tcpTimeout": "7s",
        "udpTimeout": "8s",
    },
    "logging": {
        "flushFrequency": "9s",
        "format": "json",
        "options": {
            "json": {"infoBufferSize": "1", "splitStream": True},
            "text": {"infoBufferSize": "2", "splitStream": True},
        },
        "verbosity": 3,
        "vmodule": [{"filePattern": "h", "verbosity": 4}],
    },
    "metricsBindAddress": "[::1]:2",
    "mode": "ipvs",
    "nftables": {"masqueradeAll": True, "masqueradeBit": 1, "minSyncPeriod": "10s", "syncPeriod": "11s"},
    "nodePortAddresses": ["primary"],
    "oomScoreAdj": 0,
    "portRange": "1-2",
    "showHiddenMetricsForVersion": "1.35",
    "windowsRunAsService": True,
    "winkernel": {
        "enableDSR": True,
        "forwardHealthCheckVip": True,
        "networkName": "i",
        "rootHnsEndpointName": "j",
        "sourceVip": "k",
    },
}
"""Every field, with a value that is not its default."""


def read(text: str) -> Decoded:
    return decode((HEAD + text).encode())


def test_an_empty_file_has_upstreams_default_in_every_field() -> None:
    decoded = read("")
    assert as_object(decoded.configuration) == UPSTREAM
    assert decoded.strict_error == ""


def test_every_field_is_read_and_written_back() -> None:
    decoded = read(yaml.safe_dump(FULL))
    assert decoded.strict_error == ""
    written = as_object(decoded.configuration)
    assert written == {**written, **FULL}
    assert set(written) - set(FULL) == {"apiVersion", "kind"}
    assert decode(as_yaml(decoded.configuration).encode()).configuration == decoded.configuration
    assert configz(decoded.configuration) == {"kubeproxy.config.k8s.io": written}


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("bindAddress: '::'", "healthzBindAddress", "[::]:10256"),
        ("bindAddress: fd00::1", "metricsBindAddress", "[::1]:10249"),
        ("healthzBindAddress: 192.0.2.1", "healthzBindAddress", "192.0.2.1:10256"),
        ("metricsBindAddress: 'fd00::1'", "metricsBindAddress", "[fd00::1]:10249"),
        ("metricsBindAddress: '[fd00::1]'", "metricsBindAddress", "[fd00::1]:10249"),
        ("bindAddress: 'fd00::1'\nhealthzBindAddress: 0.0.0.0:1", "healthzBindAddress", "0.0.0.0:1"),
        ("configSyncPeriod: 0s", "configSyncPeriod", "15m0s"),
        ("oomScoreAdj: null", "oomScoreAdj", -999),
        ("featureGates: null", "bindAddress", "0.0.0.0"),
        ("iptables: null", "mode", ""),
    ],
)
def test_what_is_left_out_or_zero_is_defaulted(text: str, path: str, value: object) -> None:
    assert as_object(read(text).configuration)[path] == value


@pytest.mark.parametrize(
    ("block", "given", "read_as"),
    [
        ("iptables", {"syncPeriod": "0s", "minSyncPeriod": "0s"}, {"syncPeriod": "30s", "minSyncPeriod": "0s"}),
        ("nftables", {"syncPeriod": "0s", "minSyncPeriod": "0s"}, {"syncPeriod": "30s", "minSyncPeriod": "0s"}),
        ("ipvs", {"syncPeriod": "0s", "minSyncPeriod": "0s"}, {"syncPeriod": "30s", "minSyncPeriod": "0s"}),
        ("clientConnection", {"qps": 0, "burst": 0, "contentType": ""}, UPSTREAM["clientConnection"]),
        ("logging", {"format": "", "flushFrequency": 0}, {"format": "text", "flushFrequency": "5s"}),
        ("logging", {"flushFrequency": 2_000_000_000}, {"flushFrequency": "2s"}),
        ("conntrack", {"maxPerCore": 0, "min": 0}, {"maxPerCore": 0, "min": 0}),
        ("iptables", {"masqueradeBit": 0}, {"masqueradeBit": 0}),
    ],
)
def test_zero_means_the_default_where_upstream_has_it_so(
    block: str, given: dict[str, Any], read_as: dict[str, Any]
) -> None:
    found = as_object(read(yaml.safe_dump({block: given})).configuration)[block]
    assert found == {**found, **read_as}


def test_unknown_and_double_fields_are_minded_and_passed_over() -> None:
    decoded = read(
        "mode: ipvs\nudpIdleTimeout: 250ms\niptables:\n  masqueradeBit: 3\n  masquerade: true\nmode: iptables\n"
        "logging:\n  vmodule:\n  - {filePattern: a, verbosity: 1, colour: red}\n"
    )
    assert decoded.configuration.mode == "iptables"
    assert decoded.configuration.iptables.masquerade_bit == 3
    assert decoded.strict_error == (
        'strict decoding error: line 8: key "mode" already set in map, unknown field "udpIdleTimeout", '
        'unknown field "iptables.masquerade", unknown field "logging.vmodule[0].colour"'
    )


def test_an_aliased_mapping_is_looked_through_once() -> None:
    # Nine levels of nine aliases each: whoever follows them all never ends.
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert 'unknown field "a9"' in read("\n".join(lines)).strict_error


def test_json_is_read_too_and_only_the_first_document() -> None:
    json = b'{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"}'
    assert decode(json).configuration.mode == "ipvs"
    assert read("mode: ipvs\n---\nmode: nftables\n").configuration.mode == "ipvs"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Object 'Kind' is missing"),
        ("kind: KubeProxyConfiguration", "Object 'apiVersion' is missing"),
        (
            "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1",
            'no kind "KubeletConfiguration"',
        ),
        ("kind: KubeProxyConfiguration\napiVersion: v1", 'for version "v1"'),
        ("[1, 2]", "a mapping is needed, not a list"),
        ("{", "failed to decode: while parsing"),
        (b"\xff\xfe\xff", "failed to decode: "),
        ("a: " + "[" * 100_000, "line 1: nested more than 32 deep"),
        ("- " * 100_000, "line 1: nested more than 32 deep"),
        ("mode: &a [*a]", "Object 'Kind' is missing"),
        (HEAD + "mode: 5", "KubeProxyConfiguration.mode: Expected `str`, got `int`"),
        (HEAD + "conntrack: {min: many}", "KubeProxyConfiguration.conntrack.min: Expected `int`, got `str`"),
        (HEAD + "oomScoreAdj: 99999999999", "KubeProxyConfiguration.oomScoreAdj: Expected `int` <= 2147483647"),
        (HEAD + "iptables: {syncPeriod: 30}", "iptables.syncPeriod: Expected a duration such as `30s`, got `int`"),
        (HEAD + "iptables: {syncPeriod: 30 s}", 'iptables.syncPeriod: time: invalid duration "30 s"'),
        (HEAD + "iptables: [1]", "KubeProxyConfiguration.iptables: Expected `object`, got `array`"),
        (HEAD + "nodePortAddresses: primary", "nodePortAddresses: Expected `array`, got `str`"),
        (HEAD + "featureGates: {A: 1}", "featureGates[...]: Expected `bool`, got `int`"),
    ],
)
def test_everything_else_is_fatal_and_named(content: str | bytes, message: str) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(content if isinstance(content, bytes) else content.encode())
    assert message in str(refused.value)


def test_what_stands_behind_the_first_document_is_told_of() -> None:
    decoded = decode((HEAD + "mode: iptables\n---\n" + HEAD + "mode: nftables\n").encode())
    assert decoded.strict_error == "strict decoding error: only the first of several documents counts"
    assert decoded.configuration.mode == "iptables"


def test_whoever_gives_the_whole_config_map_is_told_which_part_is_meant() -> None:
    with pytest.raises(DecodeError, match=r"has under data, config\.conf"):
        decode(b"apiVersion: v1\nkind: ConfigMap\ndata: {}\n")
