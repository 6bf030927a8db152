"""The agent's command line: upstream's flags and defaults, what goes with a file, and what is refused at once."""

from pathlib import Path

import pytest

from kubeproxy.config.decode import decode
from kubeproxy.config.encode import as_yaml
from kubeproxy.model.addresses import Family
from kubeproxy.model.conntrack_limits import ConntrackLimits
from kubeproxy.model.node import node_state
from kubeproxy.model.settings import LocalMode
from kubeproxy.model.world import World
from kubeproxy.options import COMMAND_LINE, conntrack_limits_of, parse, settings_of

pytestmark = pytest.mark.unit

UPSTREAM = {
    "config": "",
    "write-config-to": "",
    "cleanup": "false",
    "init-only": "false",
    "kubeconfig": "",
    "master": "",
    "kube-api-content-type": "application/vnd.kubernetes.protobuf",
    "kube-api-burst": "10",
    "kube-api-qps": "5",
    "hostname-override": "",
    "feature-gates": "",
    "version": "false",
    "v": "0",
    "vmodule": "[]",
    "logging-format": "text",
    "log-flush-frequency": "5s",
    "log-text-split-stream": "false",
    "log-text-info-buffer-size": "0",
    "log-json-split-stream": "false",
    "log-json-info-buffer-size": "0",
    "bind-address": "0.0.0.0",
    "healthz-bind-address": "0.0.0.0:10256",
    "metrics-bind-address": "127.0.0.1:10249",
    "healthz-port": "10256",
    "metrics-port": "10249",
    "bind-address-hard-fail": "false",
    "profiling": "false",
    "show-hidden-metrics-for-version": "",
    "oom-score-adj": "-999",
    "config-sync-period": "15m0s",
    "proxy-mode": "",
    "masquerade-all": "false",
    "iptables-masquerade-bit": "14",
    "iptables-localhost-nodeports": "true",
    "iptables-sync-period": "30s",
    "iptables-min-sync-period": "1s",
    "ipvs-sync-period": "30s",
    "ipvs-min-sync-period": "1s",
    "ipvs-scheduler": "",
    "ipvs-exclude-cidrs": "[]",
    "ipvs-strict-arp": "false",
    "ipvs-tcp-timeout": "0s",
    "ipvs-tcpfin-timeout": "0s",
    "ipvs-udp-timeout": "0s",
    "detect-local-mode": "",
    "cluster-cidr": "",
    "pod-bridge-interface": "",
    "pod-interface-name-prefix": "",
    "nodeport-addresses": "[]",
    "conntrack-max-per-core": "32768",
    "conntrack-min": "131072",
    "conntrack-tcp-timeout-established": "24h0m0s",
    "conntrack-tcp-timeout-close-wait": "1h0m0s",
    "conntrack-tcp-be-liberal": "false",
    "conntrack-udp-timeout": "0s",
    "conntrack-udp-timeout-stream": "0s",
    "boot-id-file": "/proc/sys/kernel/random/boot_id",
    "machine-id-file": "/etc/machine-id,/var/lib/dbus/machine-id",
}
"""Every flag of kube-proxy 1.36 on Linux and its default (reference/kube-proxy.md §4.1)."""
AT_ONCE = {"iptables-min-sync-period": "0s", "ipvs-min-sync-period": "0s"}
"""Where we differ: no sync waits for a period to end."""
OURS = {"data-dir", "api-bind-address", "service-cluster-ip-range", "service-node-port-range"}

FLAG_SETS = [
    ("--bind-address=192.0.2.1", "bind_address", "192.0.2.1"),
    ("--healthz-bind-address=192.0.2.1", "healthz_bind_address", "192.0.2.1:10256"),
    ("--metrics-bind-address=::1", "metrics_bind_address", "[::1]:10249"),
    ("--metrics-bind-address=", "metrics_bind_address", ""),
    ("--healthz-port=0", "healthz_bind_address", ""),
    ("--metrics-port=0", "metrics_bind_address", ""),
    ("--bind-address-hard-fail", "bind_address_hard_fail", True),
    ("--profiling", "enable_profiling", True),
    ("--show-hidden-metrics-for-version=1.35", "show_hidden_metrics_for_version", "1.35"),
    ("--oom-score-adj=-500", "oom_score_adj", -500),
    ("--config-sync-period=1m", "config_sync_period", 60),
    ("--proxy-mode=iptables", "mode", "iptables"),
    ("--proxy-mode=", "mode", "iptables"),
    ("--mode=auto", "mode", "auto"),
    ("--masquerade-all", "masquerade_all", True),
    ("--iptables-masquerade-bit=3", "masquerade_bit", 3),
    ("--iptables-localhost-nodeports=false", "iptables.localhost_node_ports", False),
    ("--iptables-sync-period=10s", "sync_period", 10),
    ("--iptables-min-sync-period=250ms", "min_sync_period", 0.25),
    ("--ipvs-sync-period=10s", "ipvs.sync_period", 10),
    ("--ipvs-min-sync-period=0", "ipvs.min_sync_period", 0),
    ("--ipvs-scheduler=lc", "ipvs.scheduler", "lc"),
    ("--ipvs-exclude-cidrs=10.0.0.0/8,fd00::/8", "ipvs.exclude_cidrs", ("10.0.0.0/8", "fd00::/8")),
    ("--ipvs-strict-arp", "ipvs.strict_arp", True),
    ("--ipvs-tcp-timeout=2h", "ipvs.tcp_timeout", 7200),
    ("--ipvs-tcpfin-timeout=2m", "ipvs.tcp_fin_timeout", 120),
    ("--ipvs-udp-timeout=5m", "ipvs.udp_timeout", 300),
    ("--detect-local-mode=NodeCIDR", "detect_local_mode", "NodeCIDR"),
    ("--pod-bridge-interface=cni0", "detect_local.bridge_interface", "cni0"),
    ("--pod-interface-name-prefix=cali", "detect_local.interface_name_prefix", "cali"),
    ("--cluster-cidr=10.244.0.0/16,fd00::/56", "cluster_cidrs", ("10.244.0.0/16", "fd00::/56")),
    ("--nodeport-addresses=primary", "node_port_addresses", ("primary",)),
    ("--conntrack-max-per-core=1", "conntrack.max_per_core", 1),
    ("--conntrack-min=2", "conntrack.min", 2),
    ("--conntrack-tcp-timeout-established=3s", "conntrack.tcp_established_timeout", 3),
    ("--conntrack-tcp-timeout-close-wait=4s", "conntrack.tcp_close_wait_timeout", 4),
    ("--conntrack-tcp-be-liberal", "conntrack.tcp_be_liberal", True),
    ("--conntrack-udp-timeout=5s", "conntrack.udp_timeout", 5),
    ("--conntrack-udp-timeout-stream=6s", "conntrack.udp_stream_timeout", 6),
    ("--kubeconfig=/k", "client_connection.kubeconfig", "/k"),
    ("--kube-api-content-type=application/json", "client_connection.content_type", "application/json"),
    ("--kube-api-burst=20", "client_connection.burst", 20),
    ("--kube-api-qps=7.5", "client_connection.qps", 7.5),
    ("--feature-gates=AllowServiceExternalIPs=false", "feature_gates", {"AllowServiceExternalIPs": False}),
    ("--logging-format=json", "logging.format", "json"),
    ("-v4", "logging.verbosity", 4),
    ("--log-flush-frequency=1s", "logging.flush_frequency", 1),
]


def field(holder: object, path: str) -> object:
    for name in path.split("."):
        holder = getattr(holder, name)
    return holder


def test_every_flag_of_upstreams_has_upstreams_default() -> None:
    flags = parse([]).flags
    assert set(flags) == set(UPSTREAM) | OURS
    assert {name: flags[name] for name in UPSTREAM} == UPSTREAM | AT_ONCE


@pytest.mark.parametrize(("argument", "path", "value"), FLAG_SETS)
def test_a_flag_sets_its_field(argument: str, path: str, value: object) -> None:
    assert field(parse([argument]).configuration, path) == value


def test_a_flag_and_the_same_file_lead_to_the_same_configuration(tmp_path: Path) -> None:
    # Other modes' flags too: the one value holds them all.
    words = [argument for argument, _, _ in FLAG_SETS]
    by_flags = parse(words).configuration
    file = tmp_path / "config.conf"
    file.write_text(as_yaml(by_flags))
    by_file = parse([f"--config={file}"]).configuration
    # An empty address cannot be said in a file: it means the default there.
    assert by_file.metrics_bind_address == "127.0.0.1:10249"
    same = {
        name for name in by_flags.__struct_fields__ if name not in ("healthz_bind_address", "metrics_bind_address")
    }
    assert {name: getattr(by_file, name) for name in same} == {name: getattr(by_flags, name) for name in same}


def test_repeated_lists_and_gates_add_up() -> None:
    chosen = parse(
        [
            "--nodeport-addresses=10.0.0.0/8",
            "--nodeport-addresses=192.0.2.0/24,fd00::/8",
            "--feature-gates=AllowServiceExternalIPs=false,ContextualLogging=true",
            "--feature-gates=AllowServiceExternalIPs=true",
        ]
    ).configuration
    assert chosen.node_port_addresses == ("10.0.0.0/8", "192.0.2.0/24", "fd00::/8")
    assert chosen.feature_gates == {"AllowServiceExternalIPs": True, "ContextualLogging": True}


def test_the_node_is_named_by_the_flag_then_the_file_then_the_host(tmp_path: Path) -> None:
    file = tmp_path / "config.conf"
    file.write_text(
        as_yaml(parse([]).configuration).replace("hostnameOverride: ''", "hostnameOverride: ' FromFile'")
    )
    assert parse([f"--config={file}"]).node_name == "fromfile"
    assert parse([f"--config={file}", "--hostname-override= Node1 "]).node_name == "node1"
    assert parse([]).node_name == parse([]).node_name.strip().lower() != ""


def test_beside_a_file_only_some_flags_count(tmp_path: Path) -> None:
    file = tmp_path / "config.conf"
    file.write_text(as_yaml(parse(["--masquerade-all", "--vmodule=syncer=2"]).configuration))
    options = parse(
        [
            f"--config={file}",
            "--masquerade-all=false",
            "--oom-score-adj=1",
            "--healthz-port=0",
            "--master=https://192.0.2.1",
            "--data-dir=/elsewhere",
            "-v=5",
            "--vmodule=kube*=9",
        ]
    )
    chosen = options.configuration
    assert (chosen.masquerade_all, chosen.oom_score_adj) == (True, -999)
    assert chosen.healthz_bind_address == "0.0.0.0:10256"
    assert (options.master, options.data_dir) == ("https://192.0.2.1", "/elsewhere")
    assert chosen.logging.verbosity == 5
    assert [(each.file_pattern, each.verbosity) for each in chosen.logging.vmodule] == [
        ("kube*", 9),
        ("syncer", 2),
    ]
    assert options.notes == (
        "--config is given, so these flags are ignored: healthz-port, masquerade-all, oom-score-adj",
    )


@pytest.mark.parametrize(
    "line",
    [
        "--master=https://127.0.0.1 --kubeconfig=/k --hostname-override=n1 --conntrack-max-per-core=131072 --v=2 "
        "--oom-score-adj=-998 --cluster-cidr=100.96.0.0/11",
        "--proxy-mode=iptables --healthz-bind-address=127.0.0.1 --cluster-cidr=10.42.0.0/16,fd42::/56 "
        "--conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s "
        "--detect-local-mode=ClusterCIDR --masquerade-all=false",
        "--iptables-sync-period=1m --iptables-min-sync-period=10s --ipvs-sync-period=1m "
        "--ipvs-min-sync-period=10s --detect-local-mode=NodeCIDR --nodeport-addresses=primary "
        "--kube_api_qps=20 --kube_api_burst=30",
        "--bind-address=:: --metrics-bind-address=[::]:10249 --profiling=false --feature-gates= --vmodule= "
        "--cleanup=0",
    ],
)
def test_command_lines_of_clusters_are_taken_without_a_word(line: str) -> None:
    assert parse(line.split()).notes == ()


def test_a_kubeadm_clusters_file_is_read_without_a_word() -> None:
    options = parse(["--config=tests/manifests/kubeadm-kube-proxy.conf", "--hostname-override=node1"])
    assert options.notes == ()
    chosen = options.configuration
    assert (chosen.mode, chosen.detect_local_mode) == ("iptables", "ClusterCIDR")
    assert chosen.client_connection.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    expected = parse(["--cluster-cidr=10.244.0.0/16", "--kubeconfig=/var/lib/kube-proxy/kubeconfig.conf"])
    assert as_yaml(chosen) == as_yaml(expected.configuration)


def test_what_the_model_needs_comes_out_of_the_configuration() -> None:
    settings = settings_of(
        parse(
            [
                "--hostname-override=n1",
                "--bind-address=192.0.2.9",
                "--detect-local-mode=InterfaceNamePrefix",
                "--pod-interface-name-prefix=cali",
                "--pod-bridge-interface=cni0",
                "--cluster-cidr=10.244.1.0/16",
                "--masquerade-all",
                "--iptables-masquerade-bit=5",
                "--nodeport-addresses=192.0.2.9/24",
                "--iptables-localhost-nodeports=false",
                "--feature-gates=AllowServiceExternalIPs=false",
            ]
        )
    )
    assert settings.node_name == "n1"
    assert settings.bind_address == "192.0.2.9"
    assert (settings.detect_local, settings.pod_interface_prefix, settings.pod_bridge) == (
        LocalMode.INTERFACE_NAME_PREFIX,
        "cali",
        "cni0",
    )
    assert settings.cluster_cidrs == ("10.244.0.0/16",)
    assert (settings.masquerade_all, settings.masquerade_bit) == (True, 5)
    assert settings.nodeport_addresses == ("192.0.2.0/24",)
    assert not settings.localhost_nodeports
    assert not settings.allow_external_ips
    assert node_state(World(), settings_of(parse(["--nodeport-addresses=primary"])), Family.V4).nodeport_cidrs


def test_the_limits_of_connection_tracking_are_upstreams() -> None:
    assert conntrack_limits_of(parse([]).configuration) == ConntrackLimits()
    chosen = conntrack_limits_of(parse(["--conntrack-min=7", "--conntrack-udp-timeout=1m"]).configuration)
    assert (chosen.min, chosen.udp_timeout) == (7, 60.0)


def test_deprecated_flags_work_and_are_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    parse(["--boot-id-file=/x", "--machine-id-file=/y", "--metrics-port=1"])
    warnings = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in warnings] == [
        f"Flag --{name} has been deprecated" for name in ("boot-id-file", "machine-id-file", "metrics-port")
    ]
    with pytest.raises(SystemExit):
        COMMAND_LINE.parse(["--help"])
    assert "healthz-port" not in capsys.readouterr().out


def test_every_flag_is_shown_as_it_was_given() -> None:
    flags = parse(["--masquerade-all", "--cluster-cidr=10.0.0.0/8", "--nodeport-addresses=primary"]).flags
    shown = {name: flags[name] for name in ("masquerade-all", "cluster-cidr", "iptables-sync-period")}
    assert shown == {"masquerade-all": "true", "cluster-cidr": "10.0.0.0/8", "iptables-sync-period": "30s"}


def test_a_mode_that_cannot_run_can_still_be_written_down_and_cleaned_up(tmp_path: Path) -> None:
    options = parse(["--proxy-mode=nftables", f"--write-config-to={tmp_path / 'out'}"])
    assert options.configuration.node_port_addresses == ("primary",)
    assert decode(as_yaml(options.configuration).encode()).configuration == options.configuration
    assert parse(["--proxy-mode=ipvs", "--cleanup"]).cleanup


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--mode=userspace", 'KubeProxyConfiguration.mode: Invalid value: "userspace": must be iptables, ipvs'),
        ("--master=10.0.0.1:8001", "must be https://HOST:PORT"),
        ("--master=http://", "must be https://HOST:PORT"),
        ("--hostname-override= ", "empty hostname-override is invalid"),
        ("--bind-address=node1", '"node1" is not a valid IP address'),
        ("--healthz-bind-address=0.0.0.0:0", 'healthzBindAddress: Invalid value: "0": must be a valid port'),
        ("--metrics-bind-address=no..host:1", '"no..host" is not a valid IP address'),
        ("--metrics-bind-address=::1:1:", "not in a valid format (ip or ip:port)"),
        ("--healthz-port=70000", "port 70000 is not between 0 and 65535"),
        ("--oom-score-adj=99999999999", "value out of range"),
        ("--kube-api-qps=many", 'strconv.ParseFloat: parsing "many": invalid syntax'),
        ("--feature-gates=X", "malformed pair, expect string=bool: X"),
        ("--feature-gates=X=maybe", "invalid value of X: maybe, err: strconv.ParseBool"),
        ("--feature-gates=Nope=true", "unrecognized feature gate: Nope"),
        ("--vmodule=syncer", '"syncer" does not have the pattern=N format'),
        ("-v=-1", "invalid syntax"),
        ("--api-bind-address=:8001", "must be a valid IP"),
        ("--api-bind-address=0.0.0.0:8001", "must be a loopback address"),
        ("--service-cluster-ip-range=10.96.0.0", "10.96.0.0"),
        ("--service-node-port-range=9-1", "9-1"),
        ("--logging-format=xml", 'logging.format: Invalid value: "xml": Unsupported log format'),
        ("--config=/no/such/file", "open /no/such/file: No such file or directory"),
        ("--random-fully", "unknown flag: --random-fully"),
        ("now", "unexpected argument: 'now'"),
    ],
)
def test_bad_values_end_the_start(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([argument])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_every_error_is_listed_not_only_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--iptables-masquerade-bit=32", "--conntrack-min=-1", "--config-sync-period=0"])
    assert capsys.readouterr().err == (
        "Error: [KubeProxyConfiguration.iptables.masqueradeBit: Invalid value: 32: "
        "must be within the range [0, 31], "
        "KubeProxyConfiguration.conntrack.min: Invalid value: -1: must be greater than or equal to 0, "
        'KubeProxyConfiguration.configSyncPeriod: Invalid value: "0s": must be greater than 0]\n'
    )


def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.conf"
    file.write_text("apiVersion: v1\nkind: Pod\n")
    with pytest.raises(SystemExit) as ended:
        parse([f"--config={file}"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f'Error: {file}: failed to decode: no kind "Pod" is registered')


def test_gates_of_other_components_are_taken_and_named() -> None:
    assert parse(["--feature-gates=MemoryQoS=true"]).notes == ("feature gate MemoryQoS has no effect here",)
